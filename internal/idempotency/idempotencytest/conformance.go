package idempotencytest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
)

// began is when the suite's records begin, on the hour of a store's clock.
var began = time.Unix(1_700_000_000, 0).UTC()

func record(caller, key string) idempotency.Record {
	return idempotency.Record{
		Key: idempotency.Key{Caller: caller, Value: key}, Operation: "createMachine",
		Fingerprint: idempotency.Fingerprint{1, 2, 3}, Reference: "m1", CreatedAt: began, ExpiresAt: began.Add(time.Hour),
	}
}

func wide() idempotency.Bounds {
	return idempotency.Bounds{CallerRecords: 1000, Records: 1000, CallerBytes: 1 << 30, Bytes: 1 << 30}
}

// TestStore is the suite; open makes an empty Store that lives until the test
// has ended.
func TestStore(t *testing.T, open func(t *testing.T) idempotency.Store) {
	t.Run("life of a key", func(t *testing.T) { testLife(t, open(t)) })
	t.Run("callers do not meet", func(t *testing.T) { testCallers(t, open(t)) })
	t.Run("records expire", func(t *testing.T) { testExpiry(t, open(t)) })
	t.Run("one start of many wins", func(t *testing.T) { testRace(t, open(t)) })
	t.Run("bounds of a caller", func(t *testing.T) { testCallerBounds(t, open(t)) })
	t.Run("bounds of all", func(t *testing.T) { testBounds(t, open(t)) })
}

func mustStart(t *testing.T, s idempotency.Store, r idempotency.Record) {
	t.Helper()
	if old, found, err := s.StartRequest(t.Context(), r); err != nil || found {
		t.Fatalf("start %v: %+v, %v", r.Key, old, err)
	}
}

func mustFinish(t *testing.T, s idempotency.Store, k idempotency.Key, r idempotency.Result, b idempotency.Bounds) {
	t.Helper()
	if err := s.FinishRequest(t.Context(), k, r, b); err != nil {
		t.Fatal(err)
	}
}

// look returns the key's record, as a later request finds it.
func look(t *testing.T, s idempotency.Store, k idempotency.Key) (idempotency.Record, bool) {
	t.Helper()
	probe := record(k.Caller, k.Value)
	probe.Operation = "probe"
	r, found, err := s.StartRequest(t.Context(), probe)
	if err != nil {
		t.Fatal(err)
	}
	if !found {
		if err := s.ForgetRequest(t.Context(), k); err != nil {
			t.Fatal(err)
		}
	}
	return r, found
}

func testLife(t *testing.T, s idempotency.Store) {
	r := record("a", "key ~!")
	mustStart(t, s, r)
	got, found := look(t, s, r.Key)
	if !found || got.Result != nil || got.Operation != r.Operation || got.Fingerprint != r.Fingerprint || got.Reference != "m1" ||
		!got.CreatedAt.Equal(r.CreatedAt) || !got.ExpiresAt.Equal(r.ExpiresAt) || got.Key != r.Key {
		t.Fatalf("started: %+v", got)
	}
	want := idempotency.Result{Status: 201, Header: map[string]string{"Content-Type": "application/json"}, Body: []byte("{}\x00\xff")}
	mustFinish(t, s, r.Key, want, wide())
	got, found = look(t, s, r.Key)
	if !found || got.Result == nil || got.Result.Status != 201 || !slices.Equal(got.Result.Body, want.Body) || !maps.Equal(got.Result.Header, want.Header) || got.Result.Dropped {
		t.Fatalf("finished: %+v, %+v", got, got.Result)
	}
	if err := s.ForgetRequest(t.Context(), r.Key); err != nil {
		t.Fatal(err)
	}
	if _, found := look(t, s, r.Key); found {
		t.Error("forgotten, and there")
	}
	if err := s.ForgetRequest(t.Context(), r.Key); err != nil {
		t.Errorf("forget twice: %v", err)
	}
	if err := s.FinishRequest(t.Context(), r.Key, want, wide()); !errdefs.Is(err, errdefs.NotFound) {
		t.Errorf("finish of nothing: %v", err)
	}
	mustStart(t, s, r)
	mustFinish(t, s, r.Key, idempotency.Result{Status: 204, Dropped: true}, wide())
	if got, _ := look(t, s, r.Key); got.Result == nil || !got.Result.Dropped || len(got.Result.Body) != 0 || len(got.Result.Header) != 0 {
		t.Errorf("dropped: %+v", got.Result)
	}
}

func testCallers(t *testing.T, s idempotency.Store) {
	for _, caller := range []string{"a", "b", ""} {
		mustStart(t, s, record(caller, "k"))
	}
	mustFinish(t, s, idempotency.Key{Caller: "a", Value: "k"}, idempotency.Result{Status: 200}, wide())
	for caller, finished := range map[string]bool{"a": true, "b": false, "": false} {
		if got, found := look(t, s, idempotency.Key{Caller: caller, Value: "k"}); !found || (got.Result != nil) != finished {
			t.Errorf("caller %q: %+v", caller, got)
		}
	}
}

func testExpiry(t *testing.T, s idempotency.Store) {
	old, young := record("a", "old"), record("a", "young")
	young.ExpiresAt = began.Add(2 * time.Hour)
	mustStart(t, s, old)
	mustFinish(t, s, old.Key, idempotency.Result{Status: 200}, wide())
	mustStart(t, s, young)
	if err := s.PruneRequests(t.Context(), began.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, found := look(t, s, old.Key); found {
		t.Error("an expired record is there")
	}
	if _, found := look(t, s, young.Key); !found {
		t.Error("a record is gone before its time")
	}
	// What was not pruned yet is as good as gone.
	late := record("a", "young")
	late.CreatedAt, late.ExpiresAt, late.Operation = began.Add(2*time.Hour), began.Add(3*time.Hour), "deleteMachine"
	mustStart(t, s, late)
	if got, found := look(t, s, late.Key); !found || got.Operation != "deleteMachine" {
		t.Errorf("after its time: %+v", got)
	}
}

func testRace(t *testing.T, s idempotency.Store) {
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			r := record("a", "k")
			r.Reference = fmt.Sprint(i)
			if _, found, err := s.StartRequest(t.Context(), r); err != nil {
				t.Error(err)
			} else if !found {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d starts won", won.Load())
	}
}

// kept are the keys of a caller that are there, of k0 to kn.
func kept(t *testing.T, s idempotency.Store, caller string, n int) string {
	t.Helper()
	var keys []string
	for i := range n {
		key := fmt.Sprint("k", i)
		if _, found := look(t, s, idempotency.Key{Caller: caller, Value: key}); found {
			keys = append(keys, key)
		}
	}
	return strings.Join(keys, " ")
}

func fill(t *testing.T, s idempotency.Store, caller string, from, to, bytes int, b idempotency.Bounds) {
	t.Helper()
	for i := from; i < to; i++ {
		r := record(caller, fmt.Sprint("k", i))
		mustStart(t, s, r)
		mustFinish(t, s, r.Key, idempotency.Result{Status: 200, Body: make([]byte, bytes)}, b)
	}
}

func testCallerBounds(t *testing.T, s idempotency.Store) {
	b := wide()
	b.CallerRecords, b.CallerBytes = 3, 1000
	mustStart(t, s, record("a", "k0")) // started ones are never displaced
	fill(t, s, "a", 1, 6, 10, b)
	if got := kept(t, s, "a", 6); got != "k0 k3 k4 k5" {
		t.Errorf("by number: %s", got)
	}
	fill(t, s, "a", 6, 8, 490, b)
	if got := kept(t, s, "a", 8); got != "k0 k5 k6 k7" {
		t.Errorf("by bytes: %s", got)
	}
	fill(t, s, "b", 0, 1, 10, b)
	if got := kept(t, s, "b", 1); got != "k0" {
		t.Errorf("another caller: %s", got)
	}
	// One that is too large for the bounds alone is not kept, and ends nothing.
	fill(t, s, "b", 1, 2, 2000, b)
	fill(t, s, "b", 2, 3, 10, b)
	if got := kept(t, s, "b", 3); got != "k2" {
		t.Errorf("after a large one: %s", got)
	}
}

func testBounds(t *testing.T, s idempotency.Store) {
	b := wide()
	b.Records, b.Bytes = 5, 1000
	fill(t, s, "small", 0, 2, 10, b)
	fill(t, s, "large", 0, 6, 100, b)
	if small, large := kept(t, s, "small", 2), kept(t, s, "large", 6); small != "k0 k1" || large != "k3 k4 k5" {
		t.Errorf("small has %s, large has %s", small, large)
	}
	fill(t, s, "large", 6, 7, 900, b)
	if small, large := kept(t, s, "small", 2), kept(t, s, "large", 7); small != "k0 k1" || large != "k6" {
		t.Errorf("by bytes: small has %s, large has %s", small, large)
	}
}
