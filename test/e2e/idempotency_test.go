//go:build vm

package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// The daemon dies while a command runs: who asks again, with the same key, is
// told that nobody knows, and the command has run once.
func TestExecIsNotRepeatedAfterDaemonDeath(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("once", image)
	count := hyperfleet.ExecRequest{Command: []string{"sh", "-c", "echo ran >> /root/runs; sleep 300"}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	first := make(chan error, 1)
	go func() {
		_, err := h.Exec(ctx, m.ID, count, hyperfleet.IdempotencyKey("count"))
		first <- err
	}()
	h.Output(m, "sh", "-c", "while [ ! -s /root/runs ]; do sleep 0.1; done")
	h.KillDaemon()
	h.StartDaemon()
	if err := <-first; err == nil {
		t.Error("the first call succeeded")
	}
	_, err := h.Exec(ctx, m.ID, count, hyperfleet.IdempotencyKey("count"))
	if e, ok := errors.AsType[*hyperfleet.Error](err); !ok || e.Code != "IDEMPOTENCY_OUTCOME_UNKNOWN" || !errors.Is(err, hyperfleet.ErrConflict) {
		t.Errorf("again: %v", err)
	}
	if runs := h.Output(m, "cat", "/root/runs"); strings.Count(runs, "ran") != 1 {
		t.Errorf("runs: %q", runs)
	}
}

// A create and a start whose answers were lost with the daemon.
func TestCreateAndStartAreRepeatedAfterDaemonDeath(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	req := hyperfleet.CreateMachineRequest{Name: "once", VCPUCount: 1, MemSizeMiB: 128, Image: image}
	first, err := h.CreateMachine(t.Context(), req, hyperfleet.IdempotencyKey("create"))
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		_, err := h.StartMachine(t.Context(), first.ID, hyperfleet.IdempotencyKey("start"))
		started <- err
	}()
	if _, err := h.WaitMachine(t.Context(), first.ID, hyperfleet.StatusStarting, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	h.KillDaemon()
	h.StartDaemon()
	<-started // it may have been made again by the client already
	again, err := h.CreateMachine(t.Context(), req, hyperfleet.IdempotencyKey("create"))
	if err != nil || again.ID != first.ID {
		t.Errorf("create: %+v, %v; first %s", again, err, first.ID)
	}
	if m, err := h.StartMachine(t.Context(), first.ID, hyperfleet.IdempotencyKey("start")); err != nil || m.Status != hyperfleet.StatusRunning {
		t.Errorf("start: %+v, %v", m, err)
	}
	list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil || len(list) != 1 {
		t.Errorf("machines: %+v, %v", list, err)
	}
}
