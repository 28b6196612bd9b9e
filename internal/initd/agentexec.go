package initd

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
)

// How long the note of a command's start may wait for output, or the end, that
// it can travel with: a command with input is sent none before it.
const (
	startedDelay      = 20 * time.Millisecond
	startedInputDelay = 2 * time.Millisecond
)

func (a *Agent) execStart(ctx context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.ExecStart
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	c, err := a.engine.Start(command.Request{
		ID:      req.ID,
		Argv:    guestproto.Strings(req.Argv),
		Env:     append(guestproto.Strings(a.boot.Env), guestproto.Strings(req.Env)...),
		Dir:     string(either(req.WorkDir, a.boot.WorkDir)),
		User:    string(either(req.User, a.boot.User)),
		Stdin:   req.Stdin,
		Timeout: time.Duration(req.TimeoutMillis) * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	return a.follow(ctx, s, c, 0, 0)
}

func either(v, fallback guestproto.Text) guestproto.Text {
	if v != "" {
		return v
	}
	return fallback
}

func (a *Agent) execAttach(ctx context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.ExecAttach
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	c, err := a.engine.Get(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	return a.follow(ctx, s, c, req.Stdout, req.Stderr)
}

// follow joins a stream to a command until the command has ended and all its
// output is on the way, or until the stream is over: the command goes on then.
func (a *Agent) follow(ctx context.Context, s *guestproto.Stream, c *command.Command, stdout, stderr int64) (any, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	taken := guestproto.Errorf(guestproto.KindConflict, guestproto.CodeExecTaken, "another stream attached to the command")
	turn, err := c.Follow(ctx, stdout, stderr, func() { cancel(taken) })
	if err != nil {
		return nil, err
	}
	defer turn.Leave()

	input, out, errs := turn.Input, turn.Stdout, turn.Stderr
	started := guestproto.ExecStarted{Stdin: input.Taken, Stdout: out.Offset(), Stderr: errs.Offset()}
	delay := startedDelay
	if c.HasInput() {
		delay = startedInputDelay
	}
	err = s.SendSoon(started, delay)
	if c.HasInput() {
		a.wg.Go(func() { input.Feed(s.Reader(guestproto.Stdin)) })
	}
	if err != nil {
		return nil, err
	}

	var senders sync.WaitGroup
	var outErr, errErr error
	senders.Go(func() { outErr = send(ctx, s.Writer(guestproto.Stdout), out, c.Ended()) })
	errErr = send(ctx, s.Writer(guestproto.Stderr), errs, c.Ended())
	senders.Wait()
	if err = errors.Join(outErr, errErr); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	select {
	case <-c.Ended():
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	status := c.Status()
	return guestproto.ExecExit{
		Code: status.Code, Signal: status.Signal, TimedOut: status.TimedOut,
		Stdout: out.Offset(), Stderr: errs.Offset(),
	}, nil
}

// halfCloseDelay is how long the end of one output stream waits for the end of
// the command, which says it as well and spares a frame.
const halfCloseDelay = 5 * time.Millisecond

// sendChunk is how much of a ring is sent at a time, in bytes.
const sendChunk = 16 << 10

var sendBuffers = sync.Pool{New: func() any { return new([sendChunk]byte) }}

// send copies a ring to a channel until the ring's end.
func send(ctx context.Context, w io.WriteCloser, r *guestproto.RingReader, ended <-chan struct{}) error {
	for {
		more, err := sendSome(ctx, w, r)
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	select {
	case <-ended:
		return nil
	case <-time.After(halfCloseDelay):
		return w.Close()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func sendSome(ctx context.Context, w io.Writer, r *guestproto.RingReader) (more bool, err error) {
	buf := sendBuffers.Get().(*[sendChunk]byte)
	defer sendBuffers.Put(buf)
	n, err := r.Read(ctx, buf[:])
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = w.Write(buf[:n])
	return true, err
}

func (a *Agent) execSignal(ctx context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.ExecSignal
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	c, err := a.engine.Get(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	return guestproto.Empty{}, c.Signal(syscall.Signal(req.Signal))
}

func (a *Agent) execRelease(_ context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.ExecRelease
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	a.engine.Release(req.IDs)
	return guestproto.Empty{}, nil
}
