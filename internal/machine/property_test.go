package machine_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// TestManagerRandomCalls lets several callers do random things to a few
// machines at once, over several lives of the daemon. The fakes watch over the
// contracts (never two VMMs of one machine, no shutdown while paused, ...); in
// the end records and reality must agree, and deletes must leave nothing.
func TestManagerRandomCalls(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			h := machinetest.NewHost(t)
			var ids []machine.ID
			for life := range uint64(3) {
				d := h.Daemon(t)
				m := newManager(t, d)
				for len(ids) < 3 {
					ids = append(ids, created(t, m))
				}
				var wg sync.WaitGroup
				for caller := range uint64(6) {
					rng := rand.New(rand.NewPCG(seed, life*100+caller))
					wg.Go(func() {
						for range 30 {
							randomCall(t, h, m, rng, ids[rng.IntN(len(ids))])
						}
					})
				}
				if life == 1 {
					d.Inject(machinetest.Fault{Call: 200 + int(seed)*31, After: seed%2 == 0, Crash: true})
				}
				wg.Wait()
				if crashed := d.Disarm(); !crashed {
					requireAgreement(t, h, m, ids)
				}
				mustClose(t, m)
				if n := d.Handles(); n != 0 {
					t.Errorf("%d handles are open after close", n)
				}
			}
			m := newManager(t, h.Daemon(t))
			requireAgreement(t, h, m, ids)
			for _, id := range ids {
				if err := m.Delete(t.Context(), id); err != nil && !errdefs.Is(err, errdefs.NotFound) {
					t.Error(err)
				}
				if _, runs := h.Running(id); runs || h.DiskExists(id) {
					t.Errorf("something of machine %s outlived it", id)
				}
			}
			requireClean(t, h)
		})
	}
}

// randomCall makes one call. Its outcome depends on the others; that it comes
// back at all, and what is there in the end, is what counts.
func randomCall(t *testing.T, h *machinetest.Host, m *machine.Manager, rng *rand.Rand, id machine.ID) {
	ctx := t.Context()
	switch rng.IntN(16) {
	case 0, 1, 2, 3:
		_, _ = m.Start(ctx, id)
	case 4, 5:
		_, _ = m.Stop(ctx, id)
	case 6:
		_, _ = m.Restart(ctx, id)
	case 7:
		_, _ = m.Pause(ctx, id)
	case 8:
		_, _ = m.Resume(ctx, id)
	case 9:
		h.PowerOff(id)
	case 10:
		h.End(id, machine.Exit{Known: true, Code: -1, Signal: "SIGKILL"})
	case 11:
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		_, _ = m.Start(ctx, id)
	case 12:
		h.Behave(id, machinetest.Behaviour{BootError: errdefs.New(errdefs.Guest, "GUEST_MOUNT", "bad")})
		_, _ = m.Start(ctx, id)
		h.Behave(id, machinetest.Behaviour{})
	case 13:
		if rng.IntN(10) == 0 {
			_ = m.Delete(ctx, id)
		}
	case 14:
		_, _, _ = m.List(ctx, machine.Filter{})
	default:
		if p, err := m.Exec(ctx, id, machine.ExecRequest{Argv: []string{"echo", "x"}}); err == nil {
			p.Close()
		}
	}
}

func requireAgreement(t *testing.T, h *machinetest.Host, m *machine.Manager, ids []machine.ID) {
	t.Helper()
	for _, id := range ids {
		_, _ = m.Resume(t.Context(), id) // waits for an operation whose caller has left
		_, runs := h.Running(id)
		if !runs {
			awaitDown(t, m, id)
		}
		mc, err := m.Get(t.Context(), id)
		if errdefs.Is(err, errdefs.NotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if up := mc.State == machine.Running || mc.State == machine.Paused; up != runs {
			t.Errorf("machine %s is %s, its VMM runs: %v", id, mc.State, runs)
		}
		if mc.State == machine.Starting || mc.State == machine.Stopping {
			t.Errorf("machine %s is %s, and nothing is under way", id, mc.State)
		}
	}
	requireClean(t, h)
}

// awaitDown waits for the watcher of a VMM that has ended, if there is one at
// work: it has said so before it lets go of the machine.
func awaitDown(t *testing.T, m *machine.Manager, id machine.ID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, state := range []machine.State{machine.Pending, machine.Stopped, machine.Failed} {
		wg.Go(func() {
			if _, err := m.Wait(ctx, id, state); err == nil || errdefs.Is(err, errdefs.NotFound) {
				cancel()
			}
		})
	}
	wg.Wait()
}
