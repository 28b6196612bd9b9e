package machine_test

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"testing"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newManager returns a recovered Manager of the daemon, which the test closes.
func newManager(t *testing.T, d *machinetest.Daemon, tune ...func(*machine.Config)) *machine.Manager {
	t.Helper()
	cfg := d.Config()
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	for _, f := range tune {
		f(&cfg)
	}
	m, err := machine.NewManager(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mustClose(t, m) })
	if err := m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

func mustClose(t *testing.T, m *machine.Manager) {
	t.Helper()
	if err := m.Close(context.Background()); err != nil {
		t.Errorf("close: %v", err)
	}
}

func spec(name string) machine.Spec {
	return machine.Spec{Name: name, VCPUs: 1, MemMiB: 128, Image: "alpine"}
}

func mustCreate(t *testing.T, m *machine.Manager, s machine.Spec) machine.Machine {
	t.Helper()
	mc, err := m.Create(t.Context(), machine.CreateRequest{Spec: s})
	if err != nil {
		t.Fatal(err)
	}
	return mc
}

func mustStart(t *testing.T, m *machine.Manager, id machine.ID) machine.Machine {
	t.Helper()
	mc, err := m.Start(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if mc.State != machine.Running {
		t.Fatalf("started machine is %s", mc.State)
	}
	return mc
}

func requireClean(t *testing.T, h *machinetest.Host) {
	t.Helper()
	for _, left := range h.Leftovers() {
		t.Error("left over:", left)
	}
}

func requireKind(t *testing.T, err error, kind errdefs.Kind, code string) {
	t.Helper()
	if errdefs.KindOf(err) != kind || errdefs.CodeOf(err) != code || err == nil {
		t.Fatalf("error %v is %s %s, want %s %s", err, errdefs.KindOf(err), errdefs.CodeOf(err), kind, code)
	}
}

func output(t *testing.T, m *machine.Manager, id machine.ID, argv ...string) string {
	t.Helper()
	p, err := m.Exec(t.Context(), id, machine.ExecRequest{Argv: argv})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b, err := io.ReadAll(p.Stdout())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestManagerLife(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	s := spec("one")
	s.Network.Enable, s.ExposedPorts, s.Env = true, []uint16{80, 443, 80}, []string{"FROM=spec"}
	mc := mustCreate(t, m, s)
	if mc.State != machine.Pending || mc.Slot != 1 || mc.Spec.DiskMiB != 1024 {
		t.Fatalf("created %+v", mc)
	}
	mc = mustStart(t, m, mc.ID)
	if mc.Process == nil || mc.ImageDigest == "" || mc.StartedAt.IsZero() || !h.DiskExists(mc.ID) {
		t.Fatalf("started %+v", mc)
	}
	if want := []machine.PortForward{{GuestPort: 80, HostPort: 20080}, {GuestPort: 443, HostPort: 20443}}; !slices.Equal(mc.PortForwards, want) {
		t.Fatalf("forwards %v, want %v", mc.PortForwards, want)
	}
	if got, want := output(t, m, mc.ID, "env"), "PATH=/bin\nFROM=spec\n"; got != want {
		t.Fatalf("env %q, want %q", got, want)
	}
	mc, err := m.Stop(t.Context(), mc.ID)
	if err != nil || mc.State != machine.Stopped || mc.Process != nil || mc.PortForwards != nil {
		t.Fatalf("stopped %+v, %v", mc, err)
	}
	requireClean(t, h)
	if !h.DiskExists(mc.ID) {
		t.Fatal("the disk is gone after a stop")
	}
	if err := m.Delete(t.Context(), mc.ID); err != nil {
		t.Fatal(err)
	}
	_, err = m.Get(t.Context(), mc.ID)
	requireKind(t, err, errdefs.NotFound, "NOT_FOUND")
	requireClean(t, h)
}
