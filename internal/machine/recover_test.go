package machine_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestRecoverAdopts(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	id := started(t, m)
	pid, _ := h.Running(id)
	p, err := m.Exec(t.Context(), id, machine.ExecRequest{ID: "job", Argv: []string{"sleep"}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	d.Crash()
	mustClose(t, m)

	m = newManager(t, h.Daemon(t))
	mc, err := m.Get(t.Context(), id)
	if err != nil || mc.State != machine.Running || mc.Process.PID != pid {
		t.Fatalf("adopted %+v, %v", mc, err)
	}
	p, err = m.AttachExec(t.Context(), id, "job", machine.Offsets{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Signal(t.Context(), 15); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(t.Context()); err != nil || status.Signal != "SIGTERM" {
		t.Fatalf("status %+v, %v", status, err)
	}
	_, err = m.AttachExec(t.Context(), id, "other", machine.Offsets{})
	requireKind(t, err, errdefs.NotFound, "EXEC_NOT_FOUND")
	if err := doStop(t, m, id); err != nil {
		t.Fatal(err)
	}
	requireClean(t, h)
}

func TestRecoverPaused(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	id := paused(t, m)
	d.Crash()
	mustClose(t, m)
	m = newManager(t, h.Daemon(t))
	if mc, err := m.Get(t.Context(), id); err != nil || mc.State != machine.Paused {
		t.Fatalf("adopted %+v, %v", mc, err)
	}
	if mc, err := m.Resume(t.Context(), id); err != nil || mc.State != machine.Running {
		t.Fatalf("resumed %+v, %v", mc, err)
	}
	if got := output(t, m, id, "echo", "on"); got != "on\n" {
		t.Errorf("echo said %q", got)
	}
}

func TestRecoverVMMGone(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	id := started(t, m)
	d.Crash()
	mustClose(t, m)
	h.PowerOff(id)
	m = newManager(t, h.Daemon(t))
	mc, err := m.Get(t.Context(), id)
	if err != nil || mc.State != machine.Failed || mc.ErrorCode != "VMM_EXITED" || mc.Process != nil {
		t.Fatalf("recovered %+v, %v", mc, err)
	}
	requireClean(t, h)
	mustStart(t, m, id)
}

// quitter is told to end while it adopts a VMM.
type quitter struct {
	machine.Driver
	quit context.CancelFunc
}

func (q quitter) Adopt(ctx context.Context, _ machine.VMConfig, _ machine.ProcessRef) (machine.VM, error) {
	q.quit()
	return nil, ctx.Err()
}

// TestRecoverEndsEarly checks that a daemon which is told to end while it takes
// over machines harms none of them.
func TestRecoverEndsEarly(t *testing.T) {
	for name, c := range map[string]struct {
		crash func(t *testing.T, d *machinetest.Daemon, m *machine.Manager, id machine.ID)
		state machine.State
	}{
		"running": {func(_ *testing.T, d *machinetest.Daemon, _ *machine.Manager, _ machine.ID) { d.Crash() }, machine.Running},
		"stopping": {func(t *testing.T, d *machinetest.Daemon, m *machine.Manager, id machine.ID) {
			d.Inject(machinetest.Fault{Call: 5, Crash: true})
			if err := doStop(t, m, id); err == nil {
				t.Error("stopped by a daemon that has crashed")
			}
			if op, _ := d.Injected(); op != "guest.Shutdown" {
				t.Errorf("crashed at %s", op)
			}
		}, machine.Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			h := machinetest.NewHost(t)
			d := h.Daemon(t)
			m := newManager(t, d)
			id := started(t, m)
			c.crash(t, d, m, id)
			mustClose(t, m)

			ctx, cancel := context.WithCancel(t.Context())
			cfg := h.Daemon(t).Config()
			cfg.Driver = quitter{cfg.Driver, cancel}
			m, err := machine.NewManager(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Recover(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("recover: %v", err)
			}
			mustClose(t, m)
			if _, runs := h.Running(id); !runs {
				t.Fatal("the VMM was ended")
			}
			m = newManager(t, h.Daemon(t))
			if mc, err := m.Get(t.Context(), id); err != nil || mc.State != c.state {
				t.Errorf("machine is %s, %v; want %s", mc.State, err, c.state)
			}
		})
	}
}

// TestAdoptedVMMEnds checks that the end of a VMM is judged by its console
// where there is no exit status.
func TestAdoptedVMMEnds(t *testing.T) {
	for console, state := range map[string]machine.State{
		"reboot: Restarting system":  machine.Stopped,
		"login: ":                    machine.Failed,
		"Kernel panic - not syncing": machine.Failed,
	} {
		t.Run(console, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := machinetest.NewHost(t)
				d := h.Daemon(t)
				m := newManager(t, d)
				id := started(t, m)
				d.Crash()
				mustClose(t, m)
				m = newManager(t, h.Daemon(t))
				h.End(id, machine.Exit{Known: true, Console: console})
				if _, err := m.Wait(t.Context(), id, state); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				requireClean(t, h)
			})
		})
	}
}

func TestRecoverMany(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	var ids []machine.ID
	for i := range 100 {
		ids = append(ids, mustStart(t, m, mustCreate(t, m, spec(fmt.Sprint(i))).ID).ID)
	}
	d.Crash()
	mustClose(t, m)
	m = newManager(t, h.Daemon(t))
	slots := map[int]bool{}
	for _, id := range ids {
		mc, err := m.Get(t.Context(), id)
		if err != nil || mc.State != machine.Running || slots[mc.Slot] {
			t.Fatalf("recovered %+v, %v", mc, err)
		}
		slots[mc.Slot] = true
		if err := m.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	requireClean(t, h)
	if used := m.InUse(); len(used) != 0 {
		t.Errorf("images in use: %v", used)
	}
}
