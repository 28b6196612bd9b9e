package machine_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func withQuotas(host, owner machine.Quota) func(*machine.Config) {
	return func(c *machine.Config) { c.Limits.Host, c.Limits.Owner = host, owner }
}

func create(t *testing.T, m *machine.Manager, owner string) (machine.Machine, error) {
	t.Helper()
	return m.Create(t.Context(), machine.CreateRequest{Owner: owner, Spec: spec("m")})
}

// requireShort checks an error of a quota and what it says.
func requireShort(t *testing.T, err error, want ...machine.Shortage) {
	t.Helper()
	q, ok := errors.AsType[*machine.QuotaError](err)
	if !ok || !errdefs.Is(err, errdefs.Quota) || errdefs.CodeOf(err) != "QUOTA_EXCEEDED" {
		t.Fatalf("error %v", err)
	}
	if diff := cmp.Diff(want, q.Shortages); diff != "" {
		t.Errorf("shortages (-want +got):\n%s", diff)
	}
}

// Of 100 at once exactly as many are made as may be, for one and for all.
func TestQuotaOfMachinesUnderConcurrency(t *testing.T) {
	m := newManager(t, machinetest.NewHost(t).Daemon(t), withQuotas(machine.Quota{Machines: 60}, machine.Quota{Machines: 25}))
	var made [4]atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			_, err := create(t, m, fmt.Sprint("key", i%4))
			if err == nil {
				made[i%4].Add(1)
			} else if !errdefs.Is(err, errdefs.Quota) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	total := 0
	for i := range made {
		n := int(made[i].Load())
		if n > 25 {
			t.Errorf("key%d has %d", i, n)
		}
		total += n
	}
	if total != 60 {
		t.Errorf("%d machines", total)
	}
}

// Of 100 starts at once as many come up as there are vCPUs for.
func TestQuotaOfVCPUsUnderConcurrency(t *testing.T) {
	m := newManager(t, machinetest.NewHost(t).Daemon(t), withQuotas(machine.Quota{VCPUs: 7}, machine.Quota{}))
	ids := make([]machine.ID, 100)
	for i := range ids {
		ids[i] = mustCreate(t, m, spec("m")).ID
	}
	var started atomic.Int32
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			if _, err := m.Start(t.Context(), id); err == nil {
				started.Add(1)
			} else if !errdefs.Is(err, errdefs.Quota) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := started.Load(); n != 7 {
		t.Errorf("%d of 7 came up", n)
	}
	// Those that could not are as they were.
	list, _, err := m.List(t.Context(), machine.Filter{State: machine.Pending})
	if err != nil || len(list) != 93 {
		t.Errorf("%d pending, %v", len(list), err)
	}
}

func TestQuotaSaysWhatIsUsed(t *testing.T) {
	m := newManager(t, machinetest.NewHost(t).Daemon(t), withQuotas(
		machine.Quota{Machines: 3, DiskMiB: 3000, VCPUs: 1}, machine.Quota{Machines: 1, MemMiB: 100}))
	first, err := create(t, m, "a")
	if err != nil {
		t.Fatal(err)
	}
	_, err = create(t, m, "a")
	requireShort(t, err, machine.Shortage{Scope: "key", Resource: "machines", Used: 1, Asked: 1, Allowed: 1})
	second, err := create(t, m, "") // the operator has no quota, and takes of the host's
	if err != nil {
		t.Fatal(err)
	}
	_, err = create(t, m, "b")
	requireShort(t, err, machine.Shortage{Scope: "host", Resource: "disk_mib", Used: 2048, Asked: 1024, Allowed: 3000})
	mustStart(t, m, second.ID)
	_, err = m.Start(t.Context(), first.ID)
	requireShort(t, err,
		machine.Shortage{Scope: "key", Resource: "mem_mib", Asked: 128, Allowed: 100},
		machine.Shortage{Scope: "host", Resource: "vcpus", Used: 1, Asked: 1, Allowed: 1})
	if err := m.Delete(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := create(t, m, "a"); err != nil {
		t.Errorf("after a delete: %v", err)
	}
}

// However a machine comes down, its vCPUs are free again.
func TestQuotaIsGivenBack(t *testing.T) {
	host := machinetest.NewHost(t)
	m := newManager(t, host.Daemon(t), withQuotas(machine.Quota{VCPUs: 1}, machine.Quota{}))
	one, two := mustCreate(t, m, spec("one")).ID, mustCreate(t, m, spec("two")).ID
	for name, down := range map[string]func() error{
		"stop": func() error { _, err := m.Stop(t.Context(), one); return err },
		"restart and stop": func() error {
			if _, err := m.Restart(t.Context(), one); err != nil {
				return err
			}
			_, err := m.Stop(t.Context(), one)
			return err
		},
		"a start that fails": func() error {
			if _, err := m.Stop(t.Context(), one); err != nil {
				return err
			}
			host.Behave(one, machinetest.Behaviour{BootError: errors.New("no init")})
			defer host.Behave(one, machinetest.Behaviour{})
			if _, err := m.Start(t.Context(), one); err == nil {
				return errors.New("a broken guest came up")
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			mustStart(t, m, one)
			if _, err := m.Start(t.Context(), two); !errdefs.Is(err, errdefs.Quota) {
				t.Fatalf("two at a time: %v", err)
			}
			if err := down(); err != nil {
				t.Fatal(err)
			}
			mustStart(t, m, two)
			if _, err := m.Stop(t.Context(), two); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// A restart of the daemon counts what is there, and ends nothing that is above a
// quota that has become smaller.
func TestQuotaAfterARestart(t *testing.T) {
	host := machinetest.NewHost(t)
	d := host.Daemon(t)
	m := newManager(t, d, withQuotas(machine.Quota{}, machine.Quota{}))
	for range 3 {
		mc, err := create(t, m, "a")
		if err != nil {
			t.Fatal(err)
		}
		mustStart(t, m, mc.ID)
	}
	mustClose(t, m)
	m = newManager(t, host.Daemon(t), withQuotas(machine.Quota{VCPUs: 4}, machine.Quota{Machines: 2}))
	_, err := create(t, m, "a")
	requireShort(t, err, machine.Shortage{Scope: "key", Resource: "machines", Used: 3, Asked: 1, Allowed: 2})
	mustStart(t, m, mustCreate(t, m, spec("fourth")).ID)
	_, err = m.Start(t.Context(), mustCreate(t, m, spec("fifth")).ID)
	requireShort(t, err, machine.Shortage{Scope: "host", Resource: "vcpus", Used: 4, Asked: 1, Allowed: 4})
}

// Whatever happens, in whatever order: what is counted is what is there.
func TestQuotaCountsWhatIsThere(t *testing.T) {
	const most = 5
	m := newManager(t, machinetest.NewHost(t).Daemon(t), withQuotas(machine.Quota{Machines: most, VCPUs: 3}, machine.Quota{}))
	rng := rand.New(rand.NewPCG(1, 2)) // the same calls in every run
	var ids []machine.ID
	for range 300 {
		pick := func() machine.ID {
			if len(ids) == 0 {
				return "nosuch"
			}
			return ids[rng.IntN(len(ids))]
		}
		switch rng.IntN(4) {
		case 0:
			mc, err := create(t, m, "a")
			if (err == nil) != (len(ids) < most) {
				t.Fatalf("create with %d there: %v", len(ids), err)
			}
			if err == nil {
				ids = append(ids, mc.ID)
			}
		case 1:
			id := pick()
			before, total, err := m.List(t.Context(), machine.Filter{State: machine.Running})
			if err != nil {
				t.Fatal(err)
			}
			running := false
			for _, mc := range before {
				running = running || mc.ID == id
			}
			_, err = m.Start(t.Context(), id)
			if id != "nosuch" && (err == nil) != (running || total < 3) {
				t.Fatalf("start with %d up: %v", total, err)
			}
		case 2:
			_, _ = m.Stop(t.Context(), pick())
		case 3:
			id := pick()
			if m.Delete(t.Context(), id) == nil {
				for i := range ids {
					if ids[i] == id {
						ids = append(ids[:i], ids[i+1:]...)
						break
					}
				}
			}
		}
	}
}
