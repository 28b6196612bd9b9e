package guest

import (
	"context"
	"log/slog"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/guest/guesttest"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestStats(t *testing.T) {
	all := New(context.Background(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	g := guesttest.New(context.Background())
	defer g.Close()
	s := all.Open("m1", machine.BootConfig{}, g.Dial, nil)
	defer s.Close()
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := all.Stats(); got != (Stats{Open: 1}) {
		t.Errorf("first connection: %+v", got)
	}
	g.Break()
	await(t, "the session is back", func() bool { return all.Stats() == Stats{Open: 1, Redials: 1} })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := all.Stats(); got != (Stats{Redials: 1}) {
		t.Errorf("closed: %+v", got)
	}
	bad := guesttest.New(context.Background())
	defer bad.Close()
	bad.FailBoot(guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBoot, "no disk"))
	failed := all.Open("m2", machine.BootConfig{}, bad.Dial, nil)
	defer failed.Close()
	if err := failed.Ready(t.Context()); err == nil {
		t.Fatal("a guest that is not set up is ready")
	}
	if got := all.Stats(); got != (Stats{Redials: 1}) {
		t.Errorf("a guest that is not set up: %+v", got)
	}
}
