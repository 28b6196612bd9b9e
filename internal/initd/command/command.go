package command

import (
	"context"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/process"
)

// Status is how a command ended.
type Status struct {
	Code     int    // -1 when killed by a signal
	Signal   string // "SIGKILL", ...
	TimedOut bool
}

// Command is one command, running or ended.
type Command struct {
	id     string
	exited chan struct{} // the main process has been reaped
	ended  chan struct{} // and the rings have all its output
	status Status        // valid once exited is closed

	hasInput bool
	input    input
	stdout   *output
	stderr   *output
	tree     *process.Tree // nil when nothing was started
	group    *process.Group

	timedOut atomic.Bool

	mu   sync.Mutex
	turn *Turn // whose stream reads the output; nil without one

	launched chan struct{} // closed, with Engine.mu held, when Start has ended; before, nobody else may have it
	released bool          // guarded by Engine.mu
	endedAt  time.Time     // guarded by Engine.mu
}

func newCommand(req Request) *Command {
	return &Command{
		id: req.ID, hasInput: req.Stdin,
		launched: make(chan struct{}), exited: make(chan struct{}), ended: make(chan struct{}),
	}
}

// HasInput reports whether the command was started with a standard input.
func (c *Command) HasInput() bool { return c.hasInput }

// Ended is closed when the command has ended and its rings are complete.
func (c *Command) Ended() <-chan struct{} { return c.ended }

// Status says how the command ended; it is valid once Ended is closed.
func (c *Command) Status() Status { return c.status }

// Signal sends sig to the whole tree of the command.
func (c *Command) Signal(sig syscall.Signal) error {
	select {
	case <-c.exited:
		return guestproto.Errorf(guestproto.KindConflict, guestproto.CodeExecEnded, "exec %s has ended", c.id)
	default:
	}
	return c.tree.Signal(sig)
}

// Turn is one stream's right to a command's output and input.
type Turn struct {
	Stdout, Stderr *guestproto.RingReader
	Input          *InputClaim // at its end already when the command was started without

	command *Command
	lost    func()
}

// Follow takes over the command's output, from the given offsets on, and its
// input: lost of the turn before is called. It fails once ctx, which is the
// stream's, is done: whoever is late takes nothing from a later session's
// stream. The caller ends its turn with Leave.
func (c *Command) Follow(ctx context.Context, stdout, stderr int64, lost func()) (*Turn, error) {
	t, before, err := c.takeTurn(ctx, stdout, stderr, lost)
	if before != nil {
		before.lost()
	}
	return t, err
}

func (c *Command) takeTurn(ctx context.Context, stdout, stderr int64, lost func()) (t, before *Turn, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	before = c.turn
	c.turn = &Turn{
		Stdout: c.stdout.ring.Reader(stdout), Stderr: c.stderr.ring.Reader(stderr),
		Input: c.input.Claim(), command: c, lost: lost,
	}
	return c.turn, before, nil
}

// Leave ends the turn. It is idempotent.
func (t *Turn) Leave() {
	t.command.mu.Lock()
	defer t.command.mu.Unlock()
	if t.command.turn == t {
		t.command.turn = nil
	}
}

// run waits for the end of a started command and of its output.
func (c *Command) run(p *process.Process, timeout time.Duration, pumps *sync.WaitGroup) {
	stop := c.limit(timeout)

	<-p.Done()
	stop()
	c.input.close()
	c.status = statusOf(p.Status(), c.timedOut.Load())
	close(c.exited)
	c.stdout.finish()
	c.stderr.finish()
	pumps.Wait()
	if c.group != nil {
		c.group.Release()
	}
}

// limit kills the tree after the timeout, unless it is stopped before.
func (c *Command) limit(timeout time.Duration) (stop func() bool) {
	if timeout <= 0 {
		return func() bool { return true }
	}
	return time.AfterFunc(timeout, func() {
		select {
		case <-c.exited:
		default:
			c.timedOut.Store(true)
			_ = c.tree.Kill() // nobody is left to kill when it fails
		}
	}).Stop
}

func statusOf(ws syscall.WaitStatus, timedOut bool) Status {
	if ws.Signaled() {
		return Status{Code: -1, Signal: unix.SignalName(ws.Signal()), TimedOut: timedOut}
	}
	return Status{Code: ws.ExitStatus()}
}

// giveBack ends the reservations of the output.
func (c *Command) giveBack() {
	c.stdout.giveBack()
	c.stderr.giveBack()
}

// dropOutput forgets the output of an ended command that nobody reads, and
// reports whether that gave memory back.
func (c *Command) dropOutput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.turn != nil {
		return false
	}
	out, err := c.stdout.drop(), c.stderr.drop()
	return out || err
}
