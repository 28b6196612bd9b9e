package machinetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// TestStore is the conformance suite of machine.Store. open returns a new,
// empty store, and sees to its end.
func TestStore(t *testing.T, open func(t *testing.T) machine.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s machine.Store)
	}{
		{"machine round trip", testRoundTrip},
		{"update keeps what is fixed", testUpdate},
		{"unknown machine", testUnknown},
		{"slots", testSlots},
		{"concurrent slots", testConcurrentSlots},
		{"list", testList},
		{"operations", testOperations},
		{"delete takes the operations along", testDeleteOperations},
		{"old operations are dropped", testOldOperations},
		{"ended context", testEndedContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var storeTime = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)

func full(id machine.ID) machine.Machine {
	return machine.Machine{
		ID: id, HostID: "host", Owner: "key1",
		Spec: machine.Spec{
			Name: "näme \"quoted\"", VCPUs: 2, MemMiB: 256, Image: "alpine", DiskMiB: 512,
			Network: machine.NetworkSpec{Enable: true}, ExposedPorts: []uint16{80, 65535},
			KernelPath: "/k", KernelArgs: "quiet", Env: []string{"A=b"},
		},
		State: machine.Failed, ErrorMessage: "it's broken", ErrorCode: "BROKEN",
		ImageRef: "docker.io/library/alpine:latest", ImageDigest: "sha256:00",
		ImageConfig:  machine.ImageConfig{Env: []string{"PATH=/bin"}, Labels: map[string]string{"a": "b"}},
		Process:      &machine.ProcessRef{PID: 7, StartTime: 1 << 60, Exe: "/bin/vmm", BootID: "b"},
		PortForwards: []machine.PortForward{{GuestPort: 80, HostPort: 40000}},
		CreatedAt:    storeTime, UpdatedAt: storeTime.Add(time.Hour), StartedAt: storeTime.Add(time.Minute),
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustInsert(t *testing.T, s machine.Store, id machine.ID) machine.Machine {
	t.Helper()
	m := full(id)
	mustDo(t, s.CreateMachine(t.Context(), &m))
	return m
}

func requireKind(t *testing.T, err error, kind errdefs.Kind) {
	t.Helper()
	if !errdefs.Is(err, kind) {
		t.Fatalf("error %v is %s, want %s", err, errdefs.KindOf(err), kind)
	}
}

func requireMachine(t *testing.T, s machine.Store, want machine.Machine) {
	t.Helper()
	got, err := s.Machine(t.Context(), want.ID)
	mustDo(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("machine (-want +got):\n%s", diff)
	}
}

func testRoundTrip(t *testing.T, s machine.Store) {
	m := mustInsert(t, s, "a")
	if m.Slot != 1 {
		t.Errorf("first slot is %d", m.Slot)
	}
	requireMachine(t, s, m)
	bare := machine.Machine{ID: "b", Spec: machine.Spec{Name: "b"}, State: machine.Pending, CreatedAt: storeTime, UpdatedAt: storeTime}
	mustDo(t, s.CreateMachine(t.Context(), &bare))
	requireMachine(t, s, bare)
	requireKind(t, s.CreateMachine(t.Context(), &bare), errdefs.Conflict)
}

func testUpdate(t *testing.T, s machine.Store) {
	m := mustInsert(t, s, "a")
	want := m
	want.State, want.ErrorMessage, want.ErrorCode = machine.Running, "", ""
	want.Process, want.PortForwards = nil, nil
	want.ImageRef, want.ImageDigest, want.ImageConfig = "r", "d", machine.ImageConfig{User: "u"}
	want.UpdatedAt, want.StartedAt = storeTime.Add(2*time.Hour), time.Time{}
	changed := want
	changed.Owner = "another"
	changed.Spec.Name, changed.Slot, changed.CreatedAt = "other", 99, storeTime.Add(time.Second)
	mustDo(t, s.UpdateMachine(t.Context(), changed))
	requireMachine(t, s, want)
}

func testUnknown(t *testing.T, s machine.Store) {
	ctx := t.Context()
	_, err := s.Machine(ctx, "x")
	requireKind(t, err, errdefs.NotFound)
	requireKind(t, s.UpdateMachine(ctx, full("x")), errdefs.NotFound)
	requireKind(t, s.DeleteMachine(ctx, "x"), errdefs.NotFound)
	requireKind(t, s.SaveOperation(ctx, machine.OperationRecord{ID: "o", MachineID: "x", Kind: "start", StartedAt: storeTime}), errdefs.NotFound)
}

func testSlots(t *testing.T, s machine.Store) {
	for i, id := range []machine.ID{"a", "b", "c", "d"} {
		if m := mustInsert(t, s, id); m.Slot != i+1 {
			t.Fatalf("slot of %s is %d", id, m.Slot)
		}
	}
	for _, id := range []machine.ID{"c", "a"} {
		mustDo(t, s.DeleteMachine(t.Context(), id))
	}
	for i, want := range []int{1, 3, 5} {
		if m := mustInsert(t, s, machine.ID(fmt.Sprint("new", i))); m.Slot != want {
			t.Errorf("slot is %d, the smallest free one is %d", m.Slot, want)
		}
	}
}

func testConcurrentSlots(t *testing.T, s machine.Store) {
	const n = 40
	slots := make([]int, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			m := full(machine.ID(fmt.Sprint("m", i)))
			if err := s.CreateMachine(t.Context(), &m); err != nil {
				t.Error(err)
			}
			slots[i] = m.Slot
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, slot := range slots {
		if slot < 1 || slot > n || seen[slot] {
			t.Errorf("slot %d is taken twice or too large", slot)
		}
		seen[slot] = true
	}
}

func testList(t *testing.T, s machine.Store) {
	for i, id := range []machine.ID{"a", "b", "c", "d", "e"} {
		m := full(id)
		if i%2 == 1 {
			m.State = machine.Running
		}
		mustDo(t, s.CreateMachine(t.Context(), &m))
	}
	for _, c := range []struct {
		filter machine.Filter
		want   string
		total  int
	}{
		{machine.Filter{}, "edcba", 5},
		{machine.Filter{Limit: 2}, "ed", 5},
		{machine.Filter{Limit: 2, Offset: 2}, "cb", 5},
		{machine.Filter{Offset: 4}, "a", 5},
		{machine.Filter{Offset: 9, Limit: 3}, "", 5},
		{machine.Filter{State: machine.Running}, "db", 2},
		{machine.Filter{State: machine.Running, Limit: 1, Offset: 1}, "b", 2},
		{machine.Filter{State: machine.Paused}, "", 0},
	} {
		list, total, err := s.Machines(t.Context(), c.filter)
		mustDo(t, err)
		var ids strings.Builder
		for _, m := range list {
			ids.WriteString(string(m.ID))
		}
		if got := ids.String(); got != c.want || total != c.total || list == nil {
			t.Errorf("%+v: %q of %d, want %q of %d", c.filter, got, total, c.want, c.total)
		}
	}
}

func operation(id string, m machine.ID) machine.OperationRecord {
	return machine.OperationRecord{
		ID: id, MachineID: m, Kind: "start", StartedAt: storeTime,
		Steps: []machine.StepRecord{{Name: "image", State: "doing", StartedAt: storeTime}},
	}
}

func testOperations(t *testing.T, s machine.Store) {
	ctx := t.Context()
	mustInsert(t, s, "a")
	mustInsert(t, s, "b")
	one, two, three := operation("1", "a"), operation("2", "b"), operation("3", "a")
	for _, op := range []machine.OperationRecord{one, two, three} {
		mustDo(t, s.SaveOperation(ctx, op))
	}
	one.Steps[0].State, one.Steps[0].FinishedAt, one.Steps[0].Error = "failed", storeTime.Add(1), "no space"
	one.Outcome, one.Error, one.FinishedAt = "undone", "image: no space", storeTime.Add(time.Second)
	mustDo(t, s.SaveOperation(ctx, one))

	unfinished, err := s.UnfinishedOperations(ctx)
	mustDo(t, err)
	if diff := cmp.Diff([]machine.OperationRecord{two, three}, unfinished); diff != "" {
		t.Errorf("unfinished (-want +got):\n%s", diff)
	}
	list, err := s.Operations(ctx, "a", 0)
	mustDo(t, err)
	if diff := cmp.Diff([]machine.OperationRecord{three, one}, list); diff != "" {
		t.Errorf("operations of a (-want +got):\n%s", diff)
	}
	list, err = s.Operations(ctx, "a", 1)
	mustDo(t, err)
	if len(list) != 1 || list[0].ID != "3" {
		t.Errorf("newest operation of a: %v", list)
	}
}

func testDeleteOperations(t *testing.T, s machine.Store) {
	mustInsert(t, s, "a")
	mustDo(t, s.SaveOperation(t.Context(), operation("1", "a")))
	mustDo(t, s.DeleteMachine(t.Context(), "a"))
	list, err := s.UnfinishedOperations(t.Context())
	mustDo(t, err)
	if len(list) != 0 {
		t.Errorf("operations of a deleted machine: %v", list)
	}
}

func testOldOperations(t *testing.T, s machine.Store) {
	mustInsert(t, s, "a")
	mustDo(t, s.SaveOperation(t.Context(), operation("unfinished", "a")))
	for i := range machine.KeepOperations + 20 {
		op := operation(fmt.Sprint(i), "a")
		op.Outcome = "done"
		mustDo(t, s.SaveOperation(t.Context(), op))
	}
	list, err := s.Operations(t.Context(), "a", 0)
	mustDo(t, err)
	if len(list) != machine.KeepOperations+1 || list[len(list)-1].ID != "unfinished" || list[len(list)-2].ID != "20" {
		t.Errorf("%d operations are kept", len(list))
	}
}

func testEndedContext(t *testing.T, s machine.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m := full("a")
	if err := s.CreateMachine(ctx, &m); err == nil {
		t.Error("create with an ended context succeeded")
	}
	_, err := s.Machine(t.Context(), "a")
	requireKind(t, err, errdefs.NotFound)
}
