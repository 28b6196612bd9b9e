package machinetest

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// guestState is what a guest is while its VMM runs, whoever has a session.
type guestState struct {
	behaviour Behaviour

	mu    sync.Mutex
	ended chan struct{}
	execs map[string]*command
	files map[string]*file
	boot  machine.BootConfig
}

func newGuestState(b Behaviour) *guestState {
	return &guestState{
		behaviour: b, ended: make(chan struct{}),
		execs: map[string]*command{}, files: map[string]*file{"/": newDir()},
	}
}

func (g *guestState) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.ended)
	for _, c := range g.execs {
		c.finish(machine.ExitStatus{Code: -1, Signal: "SIGKILL"})
	}
}

type guests struct{ d *Daemon }

// Open implements machine.Guests. It finds the guest by the machine's id.
func (v guests) Open(id machine.ID, boot machine.BootConfig, _ func(context.Context) (net.Conn, error), note func(string)) machine.Guest {
	note("fake session is up")
	h := v.d.host
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &session{d: v.d, id: id, closed: make(chan struct{})}
	for _, p := range h.of(id) {
		s.guest = p.guest
		s.p = p
	}
	if s.guest == nil { // the VMM has ended meanwhile
		s.guest = newGuestState(Behaviour{Silent: true})
	}
	s.guest.setBoot(boot)
	v.d.opened(1)
	return s
}

func (g *guestState) setBoot(boot machine.BootConfig) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.boot.Hostname == "" {
		g.boot = boot
	}
}

// Boot returns what the machine's guest was told when it booted.
func (h *Host) Boot(id machine.ID) (cfg machine.VMConfig, boot machine.BootConfig) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.of(id) {
		p.guest.mu.Lock()
		defer p.guest.mu.Unlock()
		return p.cfg, p.guest.boot
	}
	return cfg, boot
}

// session is one daemon's end of a guest's agent session.
type session struct {
	d     *Daemon
	id    machine.ID
	p     *process
	guest *guestState

	once   sync.Once
	closed chan struct{}
}

func (s *session) Ready(ctx context.Context) error {
	b := s.guest.behaviour
	if b.DieAtBoot.Console != "" {
		s.d.host.mu.Lock()
		s.d.host.end(s.p, b.DieAtBoot)
		s.d.host.mu.Unlock()
	}
	if b.Silent || b.DieAtBoot.Console != "" {
		return s.await(ctx)
	}
	return s.call(ctx, "guest.Ready", func() error { return b.BootError })
}

// await blocks until nothing can come any more.
func (s *session) await(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closed:
		return errdefs.New(errdefs.Unavailable, "SESSION_CLOSED", "the session is closed")
	case <-s.d.dead:
		return ErrCrashed
	}
}

// call is one round trip to the guest.
func (s *session) call(ctx context.Context, op string, f func() error) error {
	select {
	case <-s.closed:
		return errdefs.New(errdefs.Unavailable, "SESSION_CLOSED", "the session is closed")
	case <-s.guest.ended: // no answer will come
		return s.await(ctx)
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.d.call(op, f)
}

// SetClock counts as an answer of the guest, which needs its vCPUs.
func (s *session) SetClock(ctx context.Context) error {
	return s.call(ctx, "guest.SetClock", func() error {
		s.d.host.mu.Lock()
		defer s.d.host.mu.Unlock()
		if s.p.paused {
			return s.d.host.violation("clock of machine %s, which is paused", s.id)
		}
		s.d.host.clocks[s.id]++
		return nil
	})
}

// Shutdown ends the guest, and so its VMM.
func (s *session) Shutdown(ctx context.Context, _ time.Duration) error {
	if s.guest.behaviour.DeafToStop {
		return s.await(ctx)
	}
	return s.call(ctx, "guest.Shutdown", func() error {
		s.d.host.mu.Lock()
		defer s.d.host.mu.Unlock()
		if s.p.paused {
			return s.d.host.violation("shutdown of machine %s, which is paused", s.id)
		}
		s.d.host.end(s.p, machine.Exit{Known: true, Console: "reboot: Restarting system"})
		return nil
	})
}

func (s *session) Close() error {
	s.once.Do(func() {
		close(s.closed)
		s.d.opened(-1)
	})
	return nil
}
