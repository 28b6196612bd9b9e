// Package command runs the commands that the host asks for: it finds the
// program and the user, starts the command in a session and control group of
// its own, keeps its output in rings, feeds its input, enforces its timeout,
// and remembers how it ended until the host has taken note.
//
// A command does not depend on the host's session: it goes on when that breaks,
// and its rings let a new session go on where the old one was cut. When its
// main process has ended, what it left running in the background lives on (as
// under sshd), unless the command was killed for its timeout.
//
// The package knows no frames and no streams of the session, only the rings and
// errors of guestproto. All types are safe for concurrent use.
package command

import (
	"context"
	"log"
	"slices"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/account"
	"github.com/hyperfleet/hyperfleet/internal/initd/process"
)

const (
	// maxRunning bounds the commands that run at once.
	maxRunning = 4096
	// maxLaunching bounds those that are being started: forks exclude each other
	// anyway, and thousands that wait for it must not hold pipes and control groups.
	maxLaunching = 4
)

// Config is what an Engine works with.
type Config struct {
	Reaper   *process.Reaper
	Groups   *process.Groups // nil where there is no cgroup2
	Accounts account.Database
	Memory   int64 // bytes that the output of all commands may take, at least one ring; 0 means 16 MiB
	Log      *log.Logger
}

// Engine holds the commands of one guest.
type Engine struct {
	cfg       Config
	memory    *budget
	accounts  *account.Cache
	launching chan struct{} // holds one element for each command being started
	wg        sync.WaitGroup

	mu       sync.Mutex
	commands map[string]*Command
	running  int
	ended    []*Command // oldest first
	closed   bool
}

// NewEngine returns an Engine without commands.
func NewEngine(cfg Config) *Engine {
	if cfg.Memory == 0 {
		cfg.Memory = 16 << 20
	}
	e := &Engine{cfg: cfg, accounts: account.NewCache(cfg.Accounts), commands: map[string]*Command{}, launching: make(chan struct{}, maxLaunching)}
	e.memory = newBudget(max(cfg.Memory, ringSize), e.dropOldest)
	return e
}

// Request is one command. Env is complete but for what the user gives (see
// Environ); later entries win.
type Request struct {
	ID      string
	Argv    []string
	Env     []string
	Dir     string // "" means /
	User    string // see account.Database.Lookup
	Stdin   bool   // false: the command reads /dev/null
	Timeout time.Duration
}

// Start starts a command. A program that is not there or cannot be executed is
// no error but a command that has ended with 127 or 126. Errors are
// *guestproto.Error.
func (e *Engine) Start(req Request) (*Command, error) {
	c := newCommand(req)
	if err := e.reserve(c); err != nil {
		return nil, err
	}
	e.launching <- struct{}{}
	err := e.launch(c, req)
	<-e.launching
	e.mu.Lock()
	defer e.mu.Unlock()
	defer close(c.launched)
	if err != nil {
		e.running--
		delete(e.commands, req.ID)
		return nil, err
	}
	return c, nil
}

func (e *Engine) reserve(c *Command) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire(time.Now())
	switch {
	case e.closed:
		return guestproto.Errorf(guestproto.KindUnavailable, guestproto.CodeNotReady, "the guest is shutting down")
	case e.commands[c.id] != nil:
		return guestproto.Errorf(guestproto.KindConflict, guestproto.CodeExecExists, "exec %s exists already", c.id)
	case e.running >= maxRunning:
		return guestproto.Errorf(guestproto.KindExhausted, guestproto.CodeTooMany, "%d commands are running", e.running)
	}
	e.running++
	e.commands[c.id] = c
	return nil
}

// Get returns the command with the id, running or ended. One that is being
// started is waited for, until ctx is done: a host that lost the answer to its
// start, or gave up on it, must find it.
func (e *Engine) Get(ctx context.Context, id string) (*Command, error) {
	for {
		c, launched := e.find(id)
		if c == nil {
			return nil, guestproto.Errorf(guestproto.KindNotFound, guestproto.CodeExecNotFound, "exec %s not found", id)
		}
		if launched {
			return c, nil
		}
		select {
		case <-c.launched:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (e *Engine) find(id string) (c *Command, launched bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.expire(time.Now())
	if c = e.commands[id]; c == nil {
		return nil, false
	}
	select {
	case <-c.launched:
		return c, true
	default:
		return c, false
	}
}

// Release forgets ended commands, and running ones as soon as they end.
// Unknown ids are ignored.
func (e *Engine) Release(ids []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		c := e.commands[id]
		if c == nil {
			continue
		}
		c.released = true
		if i := slices.Index(e.ended, c); i >= 0 {
			e.ended = slices.Delete(e.ended, i, i+1)
			e.forget(c)
		}
	}
}

// Wait blocks until no command runs and none has left a process behind that
// holds its output.
func (e *Engine) Wait() { e.wg.Wait() }

// Close makes Start fail from now on. Commands go on.
func (e *Engine) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
}

// finished files an ended command, or forgets it when it was released before.
func (e *Engine) finished(c *Command) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running--
	c.endedAt = time.Now()
	if c.released {
		e.forget(c)
		return
	}
	e.ended = append(e.ended, c)
	e.expire(c.endedAt)
}

// expire forgets what was kept long enough. mu is held.
func (e *Engine) expire(now time.Time) {
	for len(e.ended) > 0 {
		c := e.ended[0]
		if len(e.ended) <= guestproto.MaxFinished && now.Sub(c.endedAt) < guestproto.FinishedFor {
			return
		}
		e.ended = e.ended[1:]
		e.forget(c)
	}
}

// forget makes the id free; a stream that still reads the output goes on, as
// the rings are only let go. mu is held.
func (e *Engine) forget(c *Command) {
	if e.commands[c.id] == c {
		delete(e.commands, c.id)
	}
	c.giveBack()
}

// dropOldest forgets the output of the oldest ended command that no stream
// reads, and reports whether there was one.
func (e *Engine) dropOldest() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, c := range e.ended {
		if c.dropOutput() {
			return true
		}
	}
	return false
}
