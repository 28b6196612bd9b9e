package guest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Timers of a session.
const (
	// handshakeLimit bounds one handshake. A guest that boots may need longer:
	// then the next connection goes on waiting.
	handshakeLimit = 2 * time.Minute
	minBackoff     = 10 * time.Millisecond
	maxBackoff     = 2 * time.Second
	// readyBackoff is the limit after a session that was set up: a connection
	// that breaks is made again soon, a guest that breaks it on purpose gains
	// nothing.
	readyBackoff = 100 * time.Millisecond
	// goodSession is how long a session lives that is no part of a series of
	// failures.
	goodSession = 10 * time.Second
	// tidyLimit bounds what a session does on its own behalf.
	tidyLimit = 10 * time.Second
)

// Sessions opens agent sessions. It implements machine.Guests.
type Sessions struct {
	base context.Context
	log  *slog.Logger

	open    atomic.Int64
	redials atomic.Int64
}

// Stats is what Sessions has counted.
type Stats struct {
	Open    int   // sessions whose guest is connected and set up
	Redials int64 // connections that were made anew after a break
}

// Stats returns a copy.
func (g *Sessions) Stats() Stats {
	return Stats{Open: int(g.open.Load()), Redials: g.redials.Load()}
}

var (
	_ machine.Guests = (*Sessions)(nil)
	_ machine.Guest  = (*Session)(nil)
)

// New returns an opener of sessions. ctx is the parent of all their work: when
// it is done all sessions end as if closed.
func New(ctx context.Context, log *slog.Logger) *Sessions {
	return &Sessions{base: ctx, log: log}
}

// Open implements machine.Guests.
func (g *Sessions) Open(id machine.ID, boot machine.BootConfig, dial func(context.Context) (net.Conn, error), note func(string)) machine.Guest {
	if note == nil {
		note = func(string) {}
	}
	s := &Session{
		id:      id,
		all:     g,
		note:    note,
		boot:    wireBoot(boot),
		dial:    dial,
		log:     g.log.With("machine", string(id)),
		changed: make(chan struct{}),
		tidy:    make(chan struct{}, 1),
		full:    make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancelCause(g.base)
	s.wg.Go(s.run)
	return s
}

// Session is the agent session of one machine. It implements machine.Guest.
type Session struct {
	id   machine.ID
	all  *Sessions
	boot guestproto.Boot
	dial func(context.Context) (net.Conn, error)
	note func(event string)
	log  *slog.Logger

	// ctx is the session's life: it ends with Close.
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	tidy   chan struct{} // capacity 1: there are released commands
	full   chan struct{} // capacity 1: there is a whole batch of them

	reached bool // the guest was connected before; used by run's goroutine alone

	mu       sync.Mutex
	conn     *guestproto.Conn // nil while there is none, or the guest is not set up
	bootErr  error            // why the guest could not set itself up
	changed  chan struct{}    // closed when conn or bootErr changes
	released []string         // commands to be forgotten
}

// run keeps the session up until Close.
func (s *Session) run() {
	defer s.set(nil, nil)
	pause := minBackoff
	for s.ctx.Err() == nil {
		began := time.Now()
		wasUp, err := s.once()
		if s.ctx.Err() != nil {
			return
		}
		if wasUp {
			pause = min(pause, readyBackoff)
		}
		if time.Since(began) >= goodSession {
			pause = minBackoff
		}
		s.log.Debug("agent session ended", "error", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
		}
		pause = min(2*pause, maxBackoff)
	}
}

// once is one connection, from dial to break. It tells whether the guest
// answered.
func (s *Session) once() (wasUp bool, err error) {
	nc, err := s.dial(s.ctx)
	if err != nil {
		return false, err
	}
	conn, err := s.connect(nc)
	if err != nil {
		return false, err
	}
	stop := context.AfterFunc(s.ctx, conn.Close)
	defer stop()
	defer conn.Close()
	if err := s.setUp(conn); err != nil {
		return false, err
	}
	s.serve(conn)
	if s.ctx.Err() == nil {
		s.note("agent session has broken and is made anew")
	}
	s.set(nil, s.failure())
	return true, conn.Err()
}

func (s *Session) connect(nc net.Conn) (*guestproto.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, handshakeLimit)
	defer cancel()
	return guestproto.Connect(ctx, nc, guestproto.Config{})
}

// setUp sends the time and the boot configuration, and lets requests go once
// the guest is set up. What the guest answers is for Ready; an error means that
// the connection is of no use.
func (s *Session) setUp(conn *guestproto.Conn) error {
	clock, err := conn.Open(s.ctx, guestproto.MethodClock, guestproto.Clock{UnixNano: time.Now().UnixNano()})
	if err != nil {
		return err
	}
	defer clock.Close()
	boot, err := conn.Open(s.ctx, guestproto.MethodBoot, s.boot)
	if err != nil {
		return err
	}
	defer boot.Close()
	if err := clock.Result(s.ctx, nil); err != nil {
		if !isAnswer(err) {
			return err
		}
		s.log.Warn("guest did not set its clock", "error", err)
	}
	var ready guestproto.Ready
	err = boot.Result(s.ctx, &ready)
	if err != nil && !isAnswer(err) {
		return err
	}
	if err != nil {
		s.note("the guest could not set itself up")
		s.set(nil, s.public("set up", err))
		return nil
	}
	s.log.Debug("agent session is up", "kernel", ready.Kernel)
	if s.reached {
		s.all.redials.Add(1)
	}
	s.reached = true
	s.note(fmt.Sprintf("agent session is up, guest kernel %.64q", ready.Kernel))
	s.set(conn, nil)
	return nil
}

// isAnswer tells a guest's own error from a break.
func isAnswer(err error) bool {
	_, ok := errors.AsType[*guestproto.Error](err)
	return ok
}

func (s *Session) set(conn *guestproto.Conn, bootErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conn == nil && conn != nil:
		s.all.open.Add(1)
	case s.conn != nil && conn == nil:
		s.all.open.Add(-1)
	}
	s.conn, s.bootErr = conn, bootErr
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Session) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bootErr
}

// session waits for a connection to a guest that is set up.
func (s *Session) session(ctx context.Context) (*guestproto.Conn, error) {
	for {
		s.mu.Lock()
		conn, bootErr, changed := s.conn, s.bootErr, s.changed
		s.mu.Unlock()
		if s.ctx.Err() != nil {
			return nil, s.closedError()
		}
		if bootErr != nil {
			return nil, bootErr
		}
		if conn != nil && conn.Err() == nil {
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, errdefs.Wrap(context.Cause(ctx), errdefs.Unavailable, "GUEST_UNREACHABLE",
				"the guest of machine %s does not answer", s.id)
		case <-s.ctx.Done():
		}
	}
}

func (s *Session) closedError() error {
	return errdefs.New(errdefs.Unavailable, "GUEST_SESSION_CLOSED", "the session with machine %s has ended", s.id)
}

// Ready implements machine.Guest.
func (s *Session) Ready(ctx context.Context) error {
	_, err := s.session(ctx)
	return err
}

// Close implements machine.Guest.
func (s *Session) Close() error {
	s.mu.Lock() // no goroutine is begun after this, see spawn
	s.cancel(errors.New("session closed"))
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// wireBoot converts the boot configuration.
func wireBoot(b machine.BootConfig) guestproto.Boot {
	out := guestproto.Boot{
		Hostname: b.Hostname,
		Overlay:  b.Overlay,
		Volumes:  guestproto.Texts(b.Volumes),
		Env:      guestproto.Texts(b.Env),
		WorkDir:  guestproto.Text(b.WorkDir),
		User:     guestproto.Text(b.User),
	}
	if n := b.Network; n != nil {
		out.Network = &guestproto.BootNetwork{Address: n.Address, Gateway: n.Gateway, DNS: n.DNS}
	}
	return out
}
