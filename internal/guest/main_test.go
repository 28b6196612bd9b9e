package guest

import (
	"context"
	"io"
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guest/guesttest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start makes a fake guest and a session with it.
func start(t *testing.T) (*guesttest.Guest, machine.Guest) {
	t.Helper()
	g := guesttest.New(context.Background())
	t.Cleanup(g.Close)
	s := openSession(t, g)
	return g, s
}

func openSession(t *testing.T, g *guesttest.Guest) machine.Guest {
	t.Helper()
	return openSessionLogged(t, g, t.Output())
}

func openSessionLogged(t *testing.T, g *guesttest.Guest, w io.Writer) machine.Guest {
	t.Helper()
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s := New(context.Background(), log).Open("m1", machine.BootConfig{
		Hostname: "box",
		Overlay:  true,
		Volumes:  []string{"/data"},
		Network:  &machine.GuestNetwork{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}},
		Env:      []string{"A=1"},
		WorkDir:  "/w",
		User:     "1:2",
	}, g.Dial, func(event string) { log.Info("note", "event", event) })
	t.Cleanup(func() { s.Close() })
	return s
}

func mustExec(t *testing.T, s machine.Guest, req machine.ExecRequest) machine.Process {
	t.Helper()
	p, err := s.Exec(t.Context(), req)
	if err != nil {
		t.Fatalf("exec %v: %v", req.Argv, err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// requireKind checks the kind and code of an error.
func requireKind(t *testing.T, err error, kind errdefs.Kind, code string) {
	t.Helper()
	if !errdefs.Is(err, kind) || errdefs.CodeOf(err) != code {
		t.Errorf("error %v has kind %s and code %s, want %s and %s", err, errdefs.KindOf(err), errdefs.CodeOf(err), kind, code)
	}
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for !cond() {
		select {
		case <-limit:
			t.Fatalf("never came: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}
