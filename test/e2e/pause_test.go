//go:build vm

package e2e

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// clockSlack is how far a guest's clock may be from the host's when date(1) in
// it prints whole seconds and the host is busy.
const clockSlack = 2 * time.Second

// TestPause pauses a guest for longer than clocks may differ, and resumes it.
func TestPause(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("p", image)
	h.Output(m, "sh", "-c", "echo kept >/dev/shm/f; (while :; do echo x >>/dev/shm/beat; sleep 0.1; done) >/dev/null 2>&1 &")

	reached := make(chan error, 1)
	go func() {
		_, err := h.WaitMachine(t.Context(), m.ID, hyperfleet.StatusPaused, 0)
		reached <- err
	}()
	paused, err := h.PauseMachine(t.Context(), m.ID)
	if err != nil || paused.Status != hyperfleet.StatusPaused || paused.PID == nil {
		t.Fatalf("pause: %+v, %v", paused, err)
	}
	if err := <-reached; err != nil {
		t.Errorf("wait for paused: %v", err)
	}
	if again, err := h.PauseMachine(t.Context(), m.ID); err != nil || again.Status != hyperfleet.StatusPaused {
		t.Errorf("pause of a paused machine: %s, %v", again.Status, err)
	}
	for what, err := range map[string]error{
		"exec": func() error {
			_, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"true"}})
			return err
		}(),
		"stat": func() error { _, err := h.Stat(t.Context(), m.ID, "/"); return err }(),
	} {
		if !errors.Is(err, hyperfleet.ErrInvalid) || !strings.Contains(err.Error(), "it is paused") {
			t.Errorf("%s on a paused machine: %v", what, err)
		}
	}
	if _, err := h.StartMachine(t.Context(), m.ID); !errors.Is(err, hyperfleet.ErrConflict) {
		t.Errorf("start of a paused machine: %v", err)
	}
	standStill(t, h, m.ID, 3*clockSlack)

	resumed, err := h.ResumeMachine(t.Context(), m.ID)
	if err != nil || resumed.Status != hyperfleet.StatusRunning || *resumed.PID != *paused.PID {
		t.Fatalf("resume: %+v, %v", resumed, err)
	}
	now, err := strconv.ParseInt(strings.TrimSpace(h.Output(m, "date", "+%s")), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if off := time.Since(time.Unix(now, 0)).Abs(); off > clockSlack {
		t.Errorf("right after resume the guest's clock is off by %v", off)
	}
	if got := h.Output(m, "cat", "/dev/shm/f"); got != "kept\n" {
		t.Errorf("the guest's memory says %q", got)
	}
	before := h.Output(m, "wc", "-l", "/dev/shm/beat")
	hosttest.Await(t, 30*time.Second, "the guest's processes go on", func() error {
		if h.Output(m, "wc", "-l", "/dev/shm/beat") == before {
			return errors.New("the file does not grow")
		}
		return nil
	})
}

// standStill waits, and fails when the machine's state changes meanwhile.
func standStill(t *testing.T, h *hosttest.Host, id string, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if m, err := h.WaitMachine(ctx, id, hyperfleet.StatusFailed, 30*time.Second); err == nil {
		t.Fatalf("the machine is %s: %v", m.Status, m.ErrorMessage)
	}
}

// A paused machine survives its daemon, and ends in order or at once.
func TestPausedMachineEnds(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	a, b := h.Start("stopped", image), h.Start("deleted", image)
	for _, m := range []hyperfleet.Machine{a, b} {
		h.Output(m, "sh", "-c", "echo synced >/root/f")
		if _, err := h.PauseMachine(t.Context(), m.ID); err != nil {
			t.Fatal(err)
		}
	}
	h.KillDaemon()
	h.StartDaemon()
	for _, m := range []hyperfleet.Machine{a, b} {
		if got, err := h.Machine(t.Context(), m.ID); err != nil || got.Status != hyperfleet.StatusPaused {
			t.Errorf("after a crash of the daemon: %s, %v", got.Status, err)
		}
	}
	if m, err := h.StopMachine(t.Context(), a.ID); err != nil || m.Status != hyperfleet.StatusStopped {
		t.Errorf("stop: %s, %v", m.Status, err)
	}
	if err := h.DeleteMachine(t.Context(), b.ID); err != nil {
		t.Errorf("delete: %v", err)
	}
	if left := h.VMMs(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := h.StartMachine(t.Context(), a.ID); err != nil {
		t.Fatal(err)
	}
	if got := h.Output(a, "cat", "/root/f"); got != "synced\n" {
		t.Errorf("after stop and start the disk says %q", got)
	}
}
