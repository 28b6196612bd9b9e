package guest

import (
	"context"
	"errors"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Exec implements machine.Guest. A command never runs twice: when the
// connection breaks before the guest has answered, the command is looked for
// before it is started again.
func (s *Session) Exec(ctx context.Context, req machine.ExecRequest) (machine.Process, error) {
	start := &guestproto.ExecStart{
		ID:            req.ID,
		Argv:          guestproto.Texts(req.Argv),
		Env:           guestproto.Texts(req.Env),
		WorkDir:       guestproto.Text(req.WorkDir),
		User:          guestproto.Text(req.User),
		Stdin:         req.Stdin,
		TimeoutMillis: req.Timeout.Milliseconds(),
	}
	if req.Timeout > 0 && start.TimeoutMillis == 0 {
		start.TimeoutMillis = 1
	}
	if err := valid("exec", start); err != nil {
		return nil, err
	}
	at, err := s.begin(ctx, start)
	if err != nil {
		return nil, err
	}
	return s.process(req.ID, at, req.Stdin)
}

// Attach implements machine.Guest.
func (s *Session) Attach(ctx context.Context, execID string, from machine.Offsets) (machine.Process, error) {
	req := &guestproto.ExecAttach{ID: execID, Stdout: from.Stdout, Stderr: from.Stderr}
	if err := valid("attach", req); err != nil {
		return nil, err
	}
	at, err := s.attach(ctx, req)
	if err != nil {
		return nil, s.public("attach", err)
	}
	if at.started.Stdout < from.Stdout || at.started.Stderr < from.Stderr {
		at.stream.Close()
		return nil, errdefs.New(errdefs.Invalid, "EXEC_OFFSET", "attach: command %s has not put out that much", execID)
	}
	return s.process(execID, at, true)
}

// attachment is a stream to a command, and where its channels begin.
type attachment struct {
	stream  *guestproto.Stream
	started guestproto.ExecStarted
}

// begin starts a command, through as many connections as it takes.
func (s *Session) begin(ctx context.Context, req *guestproto.ExecStart) (attachment, error) {
	for sent := false; ; sent = true {
		conn, err := s.session(ctx)
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			if sent {
				s.abandon(req.ID)
			}
			return attachment{}, s.public("exec", err)
		}
		at, err := s.try(ctx, conn, req, sent)
		switch {
		case err == nil:
			return at, nil
		case errors.Is(err, guestproto.ErrBroken):
		default:
			if ctx.Err() != nil {
				s.abandon(req.ID)
			}
			return attachment{}, s.public("exec", err)
		}
	}
}

// try makes one attempt. One that follows a lost answer looks for the command
// first.
func (s *Session) try(ctx context.Context, conn *guestproto.Conn, req *guestproto.ExecStart, sent bool) (attachment, error) {
	if sent {
		at, err := open(ctx, conn, guestproto.MethodExecAttach, &guestproto.ExecAttach{ID: req.ID}, guestproto.ExecStarted{})
		if !unknownExec(err) {
			return at, err
		}
	}
	return open(ctx, conn, guestproto.MethodExecStart, req, guestproto.ExecStarted{})
}

func unknownExec(err error) bool {
	e, ok := errors.AsType[*guestproto.Error](err)
	return ok && e.Code == guestproto.CodeExecNotFound
}

// attach goes on with a command, through as many connections as it takes.
func (s *Session) attach(ctx context.Context, req *guestproto.ExecAttach) (attachment, error) {
	for {
		conn, err := s.session(ctx)
		if err != nil {
			return attachment{}, err
		}
		begin := guestproto.ExecStarted{Stdout: req.Stdout, Stderr: req.Stderr}
		at, err := open(ctx, conn, guestproto.MethodExecAttach, req, begin)
		if !errors.Is(err, guestproto.ErrBroken) {
			return at, err
		}
	}
}

// open opens a command's stream and waits for its first message. A command
// that ended without one began where it was asked to.
func open(ctx context.Context, conn *guestproto.Conn, method guestproto.Method, req any, begin guestproto.ExecStarted) (attachment, error) {
	st, err := conn.Open(ctx, method, req)
	if err != nil {
		return attachment{}, err
	}
	started := begin
	err = st.Message(ctx, &started)
	if err == nil && !plausible(started) {
		err = guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBadAnswer, "the guest gave an offset that cannot be")
	}
	if err != nil && !errors.Is(err, guestproto.ErrEnded) {
		st.Close()
		return attachment{}, err
	}
	return attachment{st, started}, nil
}

// maxOffset is above what any command can put out, and far from an overflow.
const maxOffset = 1 << 60

func plausible(o guestproto.ExecStarted) bool {
	return min(o.Stdin, o.Stdout, o.Stderr) >= 0 && max(o.Stdin, o.Stdout, o.Stderr) <= maxOffset
}

// abandon ends a command whose caller gave up before it knew of its start.
func (s *Session) abandon(id string) {
	s.spawn(func() {
		ctx, cancel := context.WithTimeout(s.ctx, tidyLimit)
		defer cancel()
		const sigkill = 9
		err := s.call(ctx, "abandon", guestproto.MethodExecSignal, &guestproto.ExecSignal{ID: id, Signal: sigkill}, nil)
		if err != nil && !errdefs.Is(err, errdefs.NotFound) && errdefs.CodeOf(err) != guestproto.CodeExecEnded {
			s.log.Warn("command whose start was canceled may still run", "exec", id, "error", err)
		}
		s.release(id)
	})
}

// spawn runs f in a goroutine that Close waits for. It reports false after
// Close.
func (s *Session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Go(f)
	return true
}
