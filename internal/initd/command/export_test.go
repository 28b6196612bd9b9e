package command

import "github.com/hyperfleet/hyperfleet/internal/guestproto"

// Stdout is what the command printed.
func (c *Command) Stdout() *guestproto.Ring { return c.stdout.ring }

// Stderr is the other one.
func (c *Command) Stderr() *guestproto.Ring { return c.stderr.ring }

// Input claims the command's standard input alone.
func (c *Command) Input() *InputClaim { return c.input.Claim() }

// Input is one without a command.
type Input = input

// HoldLaunches keeps every Start waiting until release is called.
func (e *Engine) HoldLaunches() (release func()) {
	for range maxLaunching {
		e.launching <- struct{}{}
	}
	return func() {
		for range maxLaunching {
			<-e.launching
		}
	}
}
