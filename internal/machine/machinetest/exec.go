package machinetest

import (
	"bytes"
	"context"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// command is one command in a guest. It knows echo ARGS, exit CODE, cat, env,
// and sleep, which goes on until a signal or the guest's end; any other is not
// found.
type command struct {
	mu             sync.Mutex
	changed        *sync.Cond
	stdout, stderr bytes.Buffer
	taken          int64 // bytes of input
	status         *machine.ExitStatus
	ended          chan struct{}
}

func newCommand() *command {
	c := &command{ended: make(chan struct{})}
	c.changed = sync.NewCond(&c.mu)
	return c
}

func (c *command) run(req machine.ExecRequest, boot machine.BootConfig) {
	switch req.Argv[0] {
	case "echo":
		c.print(strings.Join(req.Argv[1:], " ") + "\n")
		c.finish(machine.ExitStatus{})
	case "env":
		c.print(strings.Join(append(boot.Env, req.Env...), "\n") + "\n")
		c.finish(machine.ExitStatus{})
	case "exit":
		code, err := strconv.Atoi(req.Argv[len(req.Argv)-1])
		if err != nil {
			code = 2
		}
		c.finish(machine.ExitStatus{Code: code})
	case "cat":
		if !req.Stdin {
			c.finish(machine.ExitStatus{})
		}
	case "sleep":
	default:
		c.finish(machine.ExitStatus{Code: 127})
	}
}

func (c *command) print(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stdout.WriteString(s)
	c.changed.Broadcast()
}

func (c *command) finish(status machine.ExitStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == nil {
		c.status = &status
		close(c.ended)
		c.changed.Broadcast()
	}
}

func (s *session) Exec(ctx context.Context, req machine.ExecRequest) (machine.Process, error) {
	var p machine.Process
	err := s.call(ctx, "guest.Exec", func() error {
		s.guest.mu.Lock()
		defer s.guest.mu.Unlock()
		if _, ok := s.guest.execs[req.ID]; ok {
			return errdefs.New(errdefs.Conflict, "EXEC_EXISTS", "command %s exists", req.ID)
		}
		c := newCommand()
		s.guest.execs[req.ID] = c
		c.run(req, s.guest.boot)
		p = newExecProcess(req.ID, c, machine.Offsets{})
		return nil
	})
	return p, err
}

func (s *session) Attach(ctx context.Context, execID string, from machine.Offsets) (machine.Process, error) {
	var p machine.Process
	err := s.call(ctx, "guest.Attach", func() error {
		s.guest.mu.Lock()
		defer s.guest.mu.Unlock()
		c := s.guest.execs[execID]
		if c == nil {
			return errdefs.New(errdefs.NotFound, "EXEC_NOT_FOUND", "command %s not found", execID)
		}
		p = newExecProcess(execID, c, c.from(from))
		return nil
	})
	return p, err
}

// from is where streams go on for one who asks for at.
func (c *command) from(at machine.Offsets) machine.Offsets {
	c.mu.Lock()
	defer c.mu.Unlock()
	return machine.Offsets{
		Stdout: min(at.Stdout, int64(c.stdout.Len())),
		Stderr: min(at.Stderr, int64(c.stderr.Len())),
		Stdin:  c.taken,
	}
}

// execProcess is one holder's view of a command.
type execProcess struct {
	id     string
	c      *command
	start  machine.Offsets
	stdout *output
	stderr *output
}

func newExecProcess(id string, c *command, from machine.Offsets) *execProcess {
	return &execProcess{
		id: id, c: c, start: from,
		stdout: &output{c: c, buf: &c.stdout, at: from.Stdout},
		stderr: &output{c: c, buf: &c.stderr, at: from.Stderr},
	}
}

func (p *execProcess) ID() string             { return p.id }
func (p *execProcess) Start() machine.Offsets { return p.start }
func (p *execProcess) Stdin() io.WriteCloser  { return input{p.c} }
func (p *execProcess) Stdout() io.Reader      { return p.stdout }
func (p *execProcess) Stderr() io.Reader      { return p.stderr }

func (p *execProcess) Signal(_ context.Context, sig int) error {
	names := map[int]string{2: "SIGINT", 9: "SIGKILL", 15: "SIGTERM"}
	name, ok := names[sig]
	if !ok {
		return errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "signal %d is unknown", sig)
	}
	p.c.finish(machine.ExitStatus{Code: -1, Signal: name})
	return nil
}

func (p *execProcess) Wait(ctx context.Context) (machine.ExitStatus, error) {
	select {
	case <-p.c.ended:
		p.c.mu.Lock()
		defer p.c.mu.Unlock()
		return *p.c.status, nil
	case <-ctx.Done():
		return machine.ExitStatus{}, ctx.Err()
	}
}

// Close ends what blocks in the streams.
func (p *execProcess) Close() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.stdout.closed, p.stderr.closed = true, true
	p.c.changed.Broadcast()
	return nil
}

// output reads a stream of a command from an offset on.
type output struct {
	c      *command
	buf    *bytes.Buffer // never read from: it keeps all
	at     int64
	closed bool
}

func (o *output) Read(b []byte) (int, error) {
	o.c.mu.Lock()
	defer o.c.mu.Unlock()
	for {
		switch all := o.buf.Bytes(); {
		case o.closed:
			return 0, io.ErrClosedPipe
		case o.at < int64(len(all)):
			n := copy(b, all[o.at:])
			o.at += int64(n)
			return n, nil
		case o.c.status != nil:
			return 0, io.EOF
		}
		o.c.changed.Wait()
	}
}

// input is what cat copies.
type input struct{ c *command }

func (i input) Write(b []byte) (int, error) {
	i.c.mu.Lock()
	defer i.c.mu.Unlock()
	if i.c.status != nil {
		return 0, io.ErrClosedPipe
	}
	i.c.taken += int64(len(b))
	i.c.changed.Broadcast()
	return i.c.stdout.Write(b)
}

func (i input) Close() error {
	i.c.finish(machine.ExitStatus{})
	return nil
}
