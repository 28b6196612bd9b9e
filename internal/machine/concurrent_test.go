package machine_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestManagerConcurrentStarts(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := created(t, m)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if mc, err := m.Start(t.Context(), id); err != nil || mc.State != machine.Running {
				t.Errorf("start: %s, %v", mc.State, err)
			}
		})
	}
	wg.Wait()
	requireClean(t, h)
}

func TestManagerNoOps(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := started(t, m)
	before, _ := h.Running(id)
	mustStart(t, m, id)
	if after, _ := h.Running(id); after != before {
		t.Errorf("start of a running machine replaced its VMM")
	}
	for range 2 {
		if mc, err := m.Stop(t.Context(), id); err != nil || mc.State != machine.Stopped {
			t.Fatalf("stop: %s, %v", mc.State, err)
		}
	}
	_, err := m.Pause(t.Context(), id)
	requireKind(t, err, errdefs.Conflict, "STATE_CONFLICT")
	if !strings.Contains(err.Error(), "stopped") || !strings.Contains(err.Error(), "paused") {
		t.Errorf("error %q does not name both states", err)
	}
	_, err = m.Resume(t.Context(), id)
	requireKind(t, err, errdefs.Conflict, "STATE_CONFLICT")
	_, err = m.Start(t.Context(), "nosuch")
	requireKind(t, err, errdefs.NotFound, "NOT_FOUND")
}

func TestManagerPausedMachine(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := paused(t, m)
	_, err := m.Start(t.Context(), id)
	requireKind(t, err, errdefs.Conflict, "STATE_CONFLICT")
	_, err = m.Exec(t.Context(), id, machine.ExecRequest{Argv: []string{"echo"}})
	requireKind(t, err, errdefs.Invalid, "VALIDATION_ERROR")
	if mc, err := m.Resume(t.Context(), id); err != nil || mc.State != machine.Running {
		t.Fatalf("resume: %s, %v", mc.State, err)
	}
	if n := h.ClockSet(id); n != 1 {
		t.Errorf("the resumed guest's clock was set %d times", n)
	}
	if got := output(t, m, id, "echo", "back"); got != "back\n" {
		t.Fatalf("echo said %q", got)
	}
}

// hangingStart begins a start that never ends by itself.
func hangingStart(t *testing.T, h *machinetest.Host, m *machine.Manager) (machine.ID, <-chan error) {
	t.Helper()
	id := created(t, m)
	h.Behave(id, machinetest.Behaviour{Silent: true})
	result := make(chan error, 1)
	go func() {
		_, err := m.Start(context.Background(), id)
		result <- err
	}()
	if _, err := m.Wait(t.Context(), id, machine.Starting); err != nil {
		t.Fatal(err)
	}
	return id, result
}

func TestManagerStopCancelsStart(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id, result := hangingStart(t, h, m)
	mc, err := m.Stop(t.Context(), id)
	if err != nil || mc.State != machine.Stopped || mc.ErrorMessage != "" {
		t.Fatalf("stop: %+v, %v", mc, err)
	}
	requireKind(t, <-result, errdefs.Conflict, "START_CANCELLED")
	requireClean(t, h)
	h.Behave(id, machinetest.Behaviour{})
	mustStart(t, m, id)
}

func TestManagerDeleteCancelsStart(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id, result := hangingStart(t, h, m)
	if err := m.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	requireKind(t, <-result, errdefs.Conflict, "START_CANCELLED")
	requireClean(t, h)
	if _, runs := h.Running(id); runs || h.DiskExists(id) {
		t.Fatal("something outlived the machine")
	}
}

func TestManagerRestartReplacesHangingStart(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id, result := hangingStart(t, h, m)
	h.Behave(id, machinetest.Behaviour{})
	if mc, err := m.Restart(t.Context(), id); err != nil || mc.State != machine.Running {
		t.Fatalf("restart: %s, %v", mc.State, err)
	}
	requireKind(t, <-result, errdefs.Conflict, "START_CANCELLED")
	requireClean(t, h)
}

func TestManagerCallerLeaves(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := created(t, m)
	h.Behave(id, machinetest.Behaviour{Silent: true})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := m.Start(ctx, id)
		result <- err
	}()
	if _, err := m.Wait(t.Context(), id, machine.Starting); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-result; err == nil {
		t.Fatal("start outlived its caller's context")
	}
	if mc, err := m.Get(t.Context(), id); err != nil || mc.State != machine.Starting {
		t.Fatalf("the start ended with its caller: %s, %v", mc.State, err)
	}
}

func TestManagerClose(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	up := started(t, m)
	starting, result := hangingStart(t, h, m)
	mustClose(t, m)
	requireKind(t, <-result, errdefs.Unavailable, "SHUTTING_DOWN")
	requireClean(t, h)
	if n := d.Handles(); n != 0 {
		t.Errorf("%d handles are open after close", n)
	}
	if _, runs := h.Running(up); !runs {
		t.Error("close ended a running machine")
	}
	_, err := m.Start(t.Context(), up)
	requireKind(t, err, errdefs.Unavailable, "SHUTTING_DOWN")

	next := newManager(t, h.Daemon(t))
	if mc, err := next.Get(t.Context(), starting); err != nil || mc.State != machine.Failed || mc.ErrorCode != "SHUTTING_DOWN" {
		t.Errorf("interrupted start: %+v, %v", mc, err)
	}
	if got := output(t, next, up, "echo", "still"); got != "still\n" {
		t.Errorf("echo said %q", got)
	}
}

func TestManagerWaitRefuses(t *testing.T) {
	m := newManager(t, machinetest.NewHost(t).Daemon(t))
	id := created(t, m)
	if mc, err := m.Wait(t.Context(), id, machine.Pending); err != nil || mc.ID != id {
		t.Fatalf("wait for the present state: %+v, %v", mc, err)
	}
	_, err := m.Wait(t.Context(), "nosuch", machine.Running)
	requireKind(t, err, errdefs.NotFound, "NOT_FOUND")
	_, err = m.Wait(t.Context(), id, "flying")
	requireKind(t, err, errdefs.Invalid, "VALIDATION_ERROR")
}

func TestManagerWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newManager(t, machinetest.NewHost(t).Daemon(t))
		id := created(t, m)
		got := map[machine.State]machine.Machine{}
		errs := map[machine.State]error{}
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, state := range []machine.State{machine.Starting, machine.Running, machine.Stopped} {
			wg.Go(func() {
				mc, err := m.Wait(t.Context(), id, state)
				mu.Lock()
				defer mu.Unlock()
				got[state], errs[state] = mc, err
			})
		}
		synctest.Wait()
		mustStart(t, m, id)
		if err := m.Delete(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		for _, state := range []machine.State{machine.Starting, machine.Running} {
			if errs[state] != nil || got[state].State != state {
				t.Errorf("wait for %s: %s, %v", state, got[state].State, errs[state])
			}
		}
		requireKind(t, errs[machine.Stopped], errdefs.NotFound, "NOT_FOUND")
	})
}

func TestManagerWaitTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := machinetest.NewHost(t)
		m := newManager(t, h.Daemon(t))
		id := created(t, m)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := m.Wait(ctx, id, machine.Running)
		requireKind(t, err, errdefs.Timeout, "TIMEOUT_ERROR")
		want := "Timed out waiting for machine " + string(id) + " to reach status running"
		if got := errdefs.Public(err); got != want {
			t.Errorf("message %q, want %q", got, want)
		}
	})
}

// watchedStore calls told for each state that has been recorded.
type watchedStore struct {
	machine.Store
	told func(machine.Machine)
}

func (s *watchedStore) UpdateMachine(ctx context.Context, mc machine.Machine) error {
	err := s.Store.UpdateMachine(ctx, mc)
	s.told(mc)
	return err
}

// TestRunningMeansCommandsRun checks that whoever reads "running" can run a
// command, however soon.
func TestRunningMeansCommandsRun(t *testing.T) {
	store := &watchedStore{told: func(machine.Machine) {}}
	m := newManager(t, machinetest.NewHost(t).Daemon(t), func(c *machine.Config) {
		store.Store = c.Store
		c.Store = store
	})
	id := created(t, m)
	ran := 0
	store.told = func(mc machine.Machine) {
		if mc.State == machine.Running {
			output(t, m, id, "echo", "now")
			ran++
		}
	}
	mustStart(t, m, id)
	for _, f := range []func(context.Context, machine.ID) (machine.Machine, error){m.Pause, m.Resume} {
		if _, err := f(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if ran != 2 {
		t.Errorf("%d commands ran, want 2", ran)
	}
}

// TestPauseConflict checks that a refusal names what was asked for.
func TestPauseConflict(t *testing.T) {
	m := newManager(t, machinetest.NewHost(t).Daemon(t))
	id := stopped(t, m)
	_, err := m.Pause(t.Context(), id)
	requireKind(t, err, errdefs.Conflict, "STATE_CONFLICT")
	if want := "machine is stopped and cannot become paused"; errdefs.Public(err) != want {
		t.Errorf("%q, want %q", errdefs.Public(err), want)
	}
	_, err = m.Resume(t.Context(), id)
	requireKind(t, err, errdefs.Conflict, "STATE_CONFLICT")
	if want := "machine is stopped and cannot become running"; errdefs.Public(err) != want {
		t.Errorf("%q, want %q", errdefs.Public(err), want)
	}
}
