package guest

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// inputSize is the most input that waits for the guest, sent or not, in bytes.
const inputSize = 2 * guestproto.Window

// process is the host's end of a command. Its goroutine follows the command
// from stream to stream until the end; the readers of its output read the
// current stream themselves.
type process struct {
	s      *Session
	id     string
	begin  machine.Offsets
	input  *guestproto.Ring // nil without stdin
	stdout *output
	stderr *output
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when exited or failed is set
	over   sync.WaitGroup

	mu      sync.Mutex
	stream  *guestproto.Stream // nil after a break
	changed chan struct{}      // closed when stream or failed changes
	exited  bool
	exit    guestproto.ExecExit
	failed  error // why there will be no other stream
	closed  bool
}

// process makes the host's end of a command that has been attached to.
func (s *Session) process(id string, at attachment, stdin bool) (machine.Process, error) {
	p := &process{
		s: s, id: id,
		begin:   machine.Offsets{Stdout: at.started.Stdout, Stderr: at.started.Stderr, Stdin: at.started.Stdin},
		done:    make(chan struct{}),
		changed: make(chan struct{}),
		stream:  at.stream,
	}
	p.stdout = &output{p: p, ch: guestproto.Stdout, off: at.started.Stdout}
	p.stderr = &output{p: p, ch: guestproto.Stderr, off: at.started.Stderr}
	if stdin {
		p.input = guestproto.NewRing(inputSize, guestproto.Window)
		p.input.Skip(at.started.Stdin)
	}
	p.ctx, p.cancel = context.WithCancelCause(s.ctx)
	p.over.Add(1)
	if !s.spawn(func() { defer p.over.Done(); p.follow(at) }) {
		p.cancel(nil)
		at.stream.Close()
		return nil, s.closedError()
	}
	return p, nil
}

// follow is the command's goroutine.
func (p *process) follow(at attachment) {
	var pumps sync.WaitGroup
	defer pumps.Wait()
	for {
		if p.input != nil {
			current := at
			pumps.Go(func() { p.pump(current) })
		}
		select {
		case <-at.stream.Done():
		case <-p.ctx.Done():
			p.fail(p.endedEarly())
			at.stream.Close()
			return
		}
		err := at.stream.Err()
		if errors.Is(err, guestproto.ErrEnded) {
			p.end(at.stream)
			return
		}
		if !errors.Is(err, guestproto.ErrBroken) {
			p.fail(p.s.public("exec", err))
			return
		}
		if at, err = p.resume(at.stream); err != nil {
			p.fail(err)
			return
		}
		p.setStream(at.stream)
	}
}

// endedEarly is what waits get once the process or the session is closed.
func (p *process) endedEarly() error {
	if p.s.ctx.Err() != nil {
		return p.s.closedError()
	}
	return errdefs.New(errdefs.Unavailable, guestproto.CodeCanceled, "the command was let go")
}

// resume attaches anew after a break, just where the readers are.
func (p *process) resume(broken *guestproto.Stream) (attachment, error) {
	p.setStream(nil)
	broken.Close() // what it still holds is sent again
	req := &guestproto.ExecAttach{ID: p.id, Stdout: p.stdout.offset(), Stderr: p.stderr.offset()}
	at, err := p.s.attach(p.ctx, req)
	switch {
	case p.ctx.Err() != nil:
		if err == nil {
			at.stream.Close()
		}
		return attachment{}, p.endedEarly()
	case unknownExec(err):
		return attachment{}, errdefs.Wrap(err, errdefs.Guest, "EXEC_LOST", "the guest no longer knows command %s", p.id)
	case err != nil:
		return attachment{}, p.s.public("exec", err)
	case at.started.Stdout != req.Stdout || at.started.Stderr != req.Stderr:
		at.stream.Close()
		return attachment{}, errdefs.New(errdefs.Guest, "EXEC_OUTPUT_LOST", "the guest no longer has all output of command %s", p.id)
	}
	return at, nil
}

// pump sends input into one stream until it breaks or the input ends.
func (p *process) pump(at attachment) {
	r := p.input.Reader(at.started.Stdin)
	if r.Offset() != at.started.Stdin {
		p.fail(errdefs.New(errdefs.Guest, "EXEC_INPUT_LOST", "the guest asks for input of command %s that is gone", p.id))
		at.stream.Close()
		return
	}
	w := at.stream.Writer(guestproto.Stdin)
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(at.stream.Context(), buf)
		if errors.Is(err, io.EOF) {
			w.Close() // an error is the stream's, which follow sees
			return
		}
		if err != nil {
			return
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return
		}
		if n == len(buf) && n < guestproto.MaxPayload {
			buf = make([]byte, 2*n)
		}
	}
}

func (p *process) setStream(st *guestproto.Stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stream = st
	close(p.changed)
	p.changed = make(chan struct{})
}

// end takes the result. What the stream still holds remains to be read.
func (p *process) end(st *guestproto.Stream) {
	var exit guestproto.ExecExit
	if err := st.Result(p.ctx, &exit); err != nil {
		p.fail(p.s.public("exec", err))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exited, p.exit = true, exit
	p.finish()
}

func (p *process) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil && !p.exited {
		p.failed = err
		p.finish()
	}
}

// finish ends all waits. mu is held.
func (p *process) finish() {
	select {
	case <-p.done:
		return
	default:
	}
	close(p.done)
	close(p.changed)
	p.changed = make(chan struct{})
	if p.input != nil {
		p.input.Close()
	}
}

// ID implements machine.Process.
func (p *process) ID() string { return p.id }

// Start implements machine.Process.
func (p *process) Start() machine.Offsets { return p.begin }

// Stdout implements machine.Process.
func (p *process) Stdout() io.Reader { return p.stdout }

// Stderr implements machine.Process.
func (p *process) Stderr() io.Reader { return p.stderr }

// Stdin implements machine.Process. Writing fails with io.ErrClosedPipe when
// the command has ended or has no input.
func (p *process) Stdin() io.WriteCloser { return input{p.input} }

type input struct{ ring *guestproto.Ring }

func (in input) Write(b []byte) (int, error) {
	if in.ring == nil {
		return 0, io.ErrClosedPipe
	}
	return in.ring.Write(b)
}

func (in input) Close() error {
	if in.ring != nil {
		in.ring.CloseWrite()
	}
	return nil
}

// Signal implements machine.Process.
func (p *process) Signal(ctx context.Context, sig int) error {
	req := &guestproto.ExecSignal{ID: p.id, Signal: sig}
	if err := valid("signal", req); err != nil {
		return err
	}
	return p.s.call(ctx, "signal", guestproto.MethodExecSignal, req, nil)
}

// Wait implements machine.Process.
func (p *process) Wait(ctx context.Context) (machine.ExitStatus, error) {
	select {
	case <-p.done:
	case <-ctx.Done():
		return machine.ExitStatus{}, p.s.public("wait", context.Cause(ctx))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exited {
		return machine.ExitStatus{}, p.failed
	}
	return exitStatus(p.exit), nil
}

// exitStatus takes from a guest's answer what an exit status can be.
func exitStatus(e guestproto.ExecExit) machine.ExitStatus {
	st := machine.ExitStatus{Code: e.Code, TimedOut: e.TimedOut}
	if name, ok := strings.CutPrefix(e.Signal, "SIG"); ok && len(name) <= 16 && validCode(name) {
		st.Signal = e.Signal
	}
	if st.Code < -1 || st.Code > 255 {
		st.Code = -1
	}
	return st
}

// Close implements machine.Process. A command whose end was seen is forgotten
// by the guest from then on.
func (p *process) Close() error {
	p.cancel(nil)
	p.over.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil
	}
	p.closed = true
	if p.stream != nil {
		p.stream.Close()
	}
	if p.exited {
		p.failed = p.endedEarly() // for readers
		close(p.changed)
		p.changed = make(chan struct{})
		p.s.release(p.id)
	}
	return nil
}
