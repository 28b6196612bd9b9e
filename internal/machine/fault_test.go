package machine_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// operations under fault: how the machine is made ready, and what is done.
var faultCases = []struct {
	name  string
	ready func(t *testing.T, m *machine.Manager) machine.ID
	do    func(t *testing.T, m *machine.Manager, id machine.ID) error
}{
	{"first start", created, doStart},
	{"second start", stopped, doStart},
	{"stop", started, doStop},
	{"stop of a paused one", paused, doStop},
	{"restart", started, func(t *testing.T, m *machine.Manager, id machine.ID) error {
		_, err := m.Restart(t.Context(), id)
		return err
	}},
	{"delete of a running one", started, doDelete},
	{"delete of a stopped one", stopped, doDelete},
	{"pause", started, func(t *testing.T, m *machine.Manager, id machine.ID) error {
		_, err := m.Pause(t.Context(), id)
		return err
	}},
	{"resume", paused, func(t *testing.T, m *machine.Manager, id machine.ID) error {
		_, err := m.Resume(t.Context(), id)
		return err
	}},
}

func created(t *testing.T, m *machine.Manager) machine.ID { return mustCreate(t, m, spec("x")).ID }

func started(t *testing.T, m *machine.Manager) machine.ID {
	return mustStart(t, m, created(t, m)).ID
}

func stopped(t *testing.T, m *machine.Manager) machine.ID {
	id := started(t, m)
	if err := doStop(t, m, id); err != nil {
		t.Fatal(err)
	}
	return id
}

func paused(t *testing.T, m *machine.Manager) machine.ID {
	id := started(t, m)
	if _, err := m.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func doStart(t *testing.T, m *machine.Manager, id machine.ID) error {
	_, err := m.Start(t.Context(), id)
	return err
}

func doStop(t *testing.T, m *machine.Manager, id machine.ID) error {
	_, err := m.Stop(t.Context(), id)
	return err
}

func doDelete(t *testing.T, m *machine.Manager, id machine.ID) error {
	return m.Delete(t.Context(), id)
}

// TestManagerFaults fails every call that every operation makes, one in each
// run, before and after its effect. Whatever the outcome, records and reality
// agree afterwards, nothing is left, and the machine can be used again.
func TestManagerFaults(t *testing.T) {
	for _, c := range faultCases {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", c.name, after), func(t *testing.T) {
				for n := 1; ; n++ {
					h := machinetest.NewHost(t)
					d := h.Daemon(t)
					m := newManager(t, d)
					id := c.ready(t, m)
					d.Inject(machinetest.Fault{Call: n, After: after})
					err := c.do(t, m, id)
					op, ok := d.Injected()
					if !ok {
						if err != nil {
							t.Fatalf("without a fault: %v", err)
						}
						break
					}
					t.Logf("call %d, %s: %v", n, op, err)
					if op != "driver.Release" || after { // what that leaves, the next operation clears
						requireClean(t, h)
					}
					requireUsable(t, h, m, id)
					mustClose(t, m)
				}
			})
		}
	}
}

// TestManagerCrashes is TestManagerFaults with a daemon that dies at the call,
// and another that recovers.
func TestManagerCrashes(t *testing.T) {
	for _, c := range faultCases {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/after=%v", c.name, after), func(t *testing.T) {
				for n := 1; ; n++ {
					h := machinetest.NewHost(t)
					d := h.Daemon(t)
					m := newManager(t, d)
					id := c.ready(t, m)
					d.Inject(machinetest.Fault{Call: n, After: after, Crash: true})
					err := c.do(t, m, id)
					op, ok := d.Injected()
					if !ok {
						break
					}
					t.Logf("call %d, %s: %v", n, op, err)
					mustClose(t, m)

					next := newManager(t, h.Daemon(t))
					unfinished, err := h.Store.UnfinishedOperations(t.Context())
					if err != nil || len(unfinished) > 0 {
						t.Errorf("unfinished after recovery: %v, %v", unfinished, err)
					}
					requireClean(t, h)
					requireUsable(t, h, next, id)
					mustClose(t, next)
				}
			})
		}
	}
}

// TestManagerRecoveryCrashes dies in the middle of recovering from a crash in
// the middle of a start, at every call of that.
func TestManagerRecoveryCrashes(t *testing.T) {
	for _, c := range faultCases[:6] {
		t.Run(c.name, func(t *testing.T) {
			for n := 1; ; n++ {
				h := machinetest.NewHost(t)
				d := h.Daemon(t)
				m := newManager(t, d)
				id := c.ready(t, m)
				d.Inject(machinetest.Fault{Call: 8, After: true, Crash: true})
				err := c.do(t, m, id)
				t.Logf("crash: %v", err)
				mustClose(t, m)

				d = h.Daemon(t)
				d.Inject(machinetest.Fault{Call: n, After: n%2 == 0, Crash: true})
				recoverOnce(t, d)
				if _, ok := d.Injected(); !ok {
					break
				}
				next := newManager(t, h.Daemon(t))
				requireClean(t, h)
				requireUsable(t, h, next, id)
				mustClose(t, next)
			}
		})
	}
}

func recoverOnce(t *testing.T, d *machinetest.Daemon) {
	t.Helper()
	m, err := machine.NewManager(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, m)
	if err := m.Recover(t.Context()); err != nil && !errors.Is(err, machinetest.ErrCrashed) {
		t.Fatal(err)
	}
}

// requireUsable checks that records and reality agree, and that the machine, if it is still there, starts, runs a command,
// stops, and can be deleted without a trace.
func requireUsable(t *testing.T, h *machinetest.Host, m *machine.Manager, id machine.ID) {
	t.Helper()
	mc, err := m.Get(t.Context(), id)
	if errdefs.Is(err, errdefs.NotFound) {
		requireClean(t, h)
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	_, runs := h.Running(id)
	if up := mc.State == machine.Running || mc.State == machine.Paused; up != runs {
		t.Fatalf("machine is %s, its VMM runs: %v", mc.State, runs)
	}
	if mc.State == machine.Failed && (mc.ErrorMessage == "" || mc.ErrorCode == "") {
		t.Fatalf("failed without a reason: %+v", mc)
	}
	if mc.State == machine.Failed && mc.ErrorMessage == "machine could not be deleted" {
		requireDeletable(t, h, m, id) // it may have lost its disk
		return
	}
	if mc.State == machine.Paused {
		if _, err := m.Resume(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	mustStart(t, m, id)
	if got := output(t, m, id, "echo", "hi"); got != "hi\n" {
		t.Fatalf("echo said %q", got)
	}
	if err := doStop(t, m, id); err != nil {
		t.Fatal(err)
	}
	requireDeletable(t, h, m, id)
}

func requireDeletable(t *testing.T, h *machinetest.Host, m *machine.Manager, id machine.ID) {
	t.Helper()
	if err := m.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	requireClean(t, h)
	if h.DiskExists(id) {
		t.Fatal("the disk outlived the machine")
	}
}
