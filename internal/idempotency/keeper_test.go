package idempotency_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/idempotency/idempotencytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newKeeper(s idempotency.Store) *idempotency.Keeper {
	return idempotency.NewKeeper(s, idempotency.DefaultBounds(), slog.New(slog.DiscardHandler))
}

func request() idempotency.Request {
	return idempotency.Request{
		Key: idempotency.Key{Caller: "a", Value: "k"}, Operation: "exec",
		Fingerprint: idempotency.Fingerprint{1}, Reference: "first",
	}
}

func mustBegin(t *testing.T, k *idempotency.Keeper, req idempotency.Request) *idempotency.Attempt {
	t.Helper()
	a, result, err := k.Begin(t.Context(), req)
	if err != nil || a == nil {
		t.Fatalf("begin: %+v, %v", result, err)
	}
	return a
}

func requireCode(t *testing.T, k *idempotency.Keeper, req idempotency.Request, code string) {
	t.Helper()
	a, result, err := k.Begin(t.Context(), req)
	if a != nil || result != nil || errdefs.CodeOf(err) != code || !errdefs.Is(err, errdefs.Conflict) {
		t.Errorf("attempt %v, result %+v, error %v; want %s", a, result, err, code)
	}
}

func TestParseKey(t *testing.T) {
	for key, good := range map[string]bool{
		"k": true, "a b~!": true, strings.Repeat("k", 255): true,
		"": false, strings.Repeat("k", 256): false, "a\tb": false, "a\x7f": false, "ключ": false, "a\x00": false,
	} {
		if got, err := idempotency.ParseKey(key); (err == nil) != good || good && got != key {
			t.Errorf("%q: %q, %v", key, got, err)
		}
	}
}

func TestFinishedIsReplayed(t *testing.T) {
	store := idempotencytest.NewStore()
	k := newKeeper(store)
	a := mustBegin(t, k, request())
	if err := a.Finish(t.Context(), idempotency.Result{Status: 201, Body: []byte("done")}); err != nil {
		t.Fatal(err)
	}
	for name, k := range map[string]*idempotency.Keeper{"this daemon": k, "the next one": newKeeper(store)} {
		a, result, err := k.Begin(t.Context(), request())
		if a != nil || err != nil || result.Status != 201 || string(result.Body) != "done" {
			t.Errorf("%s: %v, %+v, %v", name, a, result, err)
		}
	}
	other := request()
	other.Fingerprint[0]++
	requireCode(t, k, other, "IDEMPOTENCY_KEY_REUSED")
	other = request()
	other.Operation = "deleteMachine"
	requireCode(t, k, other, "IDEMPOTENCY_KEY_REUSED")
	other = request()
	other.Key.Caller, other.Fingerprint = "b", idempotency.Fingerprint{2}
	mustBegin(t, k, other).Leave()
}

func TestForgottenIsDoneAgain(t *testing.T) {
	k := newKeeper(idempotencytest.NewStore())
	if err := mustBegin(t, k, request()).Forget(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := mustBegin(t, k, request())
	if a.Again {
		t.Error("what was forgotten counts as cut off")
	}
	a.Leave()
}

// An attempt that nobody ended, of this daemon or of one that died.
func TestCutOff(t *testing.T) {
	store := idempotencytest.NewStore()
	mustBegin(t, newKeeper(store), request()) // its daemon dies
	k := newKeeper(store)
	requireCode(t, k, request(), "IDEMPOTENCY_OUTCOME_UNKNOWN")
	requireCode(t, k, request(), "IDEMPOTENCY_OUTCOME_UNKNOWN")

	repeatable := request()
	repeatable.Repeatable, repeatable.Reference = true, "second"
	a := mustBegin(t, k, repeatable)
	if !a.Again || a.Reference != "first" {
		t.Errorf("attempt %+v", a)
	}
	a.Leave()
	a = mustBegin(t, k, repeatable)
	if !a.Again {
		t.Error("left, and not cut off")
	}
	if err := a.Finish(t.Context(), idempotency.Result{Status: 200}); err != nil {
		t.Fatal(err)
	}
	if _, result, err := k.Begin(t.Context(), repeatable); err != nil || result.Status != 200 {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestLargeResultIsNotKept(t *testing.T) {
	k := newKeeper(idempotencytest.NewStore())
	if err := mustBegin(t, k, request()).Finish(t.Context(), idempotency.Result{Status: 200, Body: make([]byte, idempotency.MaxBody+1)}); err != nil {
		t.Fatal(err)
	}
	requireCode(t, k, request(), "IDEMPOTENCY_RESULT_NOT_KEPT")
}

func TestSecondWaitsForFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(idempotencytest.NewStore())
		a := mustBegin(t, k, request())
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, _, err := k.Begin(impatient, request()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waited in vain: %v", err)
		}
		other := request()
		other.Fingerprint[0]++
		requireCode(t, k, other, "IDEMPOTENCY_KEY_REUSED") // at once
		got := make(chan *idempotency.Result, 1)
		go func() {
			_, result, err := k.Begin(t.Context(), request())
			if err != nil {
				t.Error(err)
			}
			got <- result
		}()
		synctest.Wait()
		if err := a.Finish(t.Context(), idempotency.Result{Status: 200}); err != nil {
			t.Error(err)
		}
		if result := <-got; result == nil || result.Status != 200 {
			t.Errorf("result %+v", result)
		}
	})
}

// Of any number at once one works at a time, and a first that came to nothing
// leaves the work to another.
func TestManyAtOnce(t *testing.T) {
	k := newKeeper(idempotencytest.NewStore())
	var working, tries, replays atomic.Int32
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			a, result, err := k.Begin(t.Context(), request())
			if err != nil {
				t.Error(err)
				return
			}
			if result != nil {
				replays.Add(1)
				return
			}
			if working.Add(1) != 1 {
				t.Error("two work at once")
			}
			working.Add(-1)
			if tries.Add(1) < 3 {
				err = a.Forget(t.Context())
			} else {
				err = a.Finish(t.Context(), idempotency.Result{Status: 200})
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tries.Load() != 3 || replays.Load() != 47 {
		t.Errorf("%d tries, %d replays", tries.Load(), replays.Load())
	}
}

// brokenStore fails where it is told to.
type brokenStore struct {
	*idempotencytest.Store
	start, finish error
}

func (s *brokenStore) StartRequest(ctx context.Context, r idempotency.Record) (idempotency.Record, bool, error) {
	if s.start != nil {
		return idempotency.Record{}, false, s.start
	}
	return s.Store.StartRequest(ctx, r)
}

func (s *brokenStore) FinishRequest(ctx context.Context, k idempotency.Key, r idempotency.Result, b idempotency.Bounds) error {
	if s.finish != nil {
		return s.finish
	}
	return s.Store.FinishRequest(ctx, k, r, b)
}

func TestStoreThatFails(t *testing.T) {
	full := errors.New("disk full")
	store := &brokenStore{Store: idempotencytest.NewStore(), start: full}
	k := newKeeper(store)
	if _, _, err := k.Begin(t.Context(), request()); !errors.Is(err, full) {
		t.Errorf("begin: %v", err) // nothing is done without a record
	}
	store.start, store.finish = nil, full
	if err := mustBegin(t, k, request()).Finish(t.Context(), idempotency.Result{Status: 200}); !errors.Is(err, full) {
		t.Errorf("finish: %v", err)
	}
	requireCode(t, k, request(), "IDEMPOTENCY_OUTCOME_UNKNOWN")
}

// Run removes what has expired, without a request.
func TestRunPrunes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := idempotencytest.NewStore()
		k := newKeeper(store)
		if err := mustBegin(t, k, request()).Finish(t.Context(), idempotency.Result{Status: 200}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		time.Sleep(idempotency.Lifetime + time.Hour) // the bubble's time
		cancel()
		<-ended
		if n := store.Len(); n != 0 {
			t.Errorf("%d records are left", n)
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add("key")
	f.Add(strings.Repeat("k", 256))
	f.Add("a\x7f\xff")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := idempotency.ParseKey(s)
		if err == nil && (key != s || len(s) == 0 || len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })) {
			t.Errorf("%q is accepted", s)
		}
		if err != nil && !errdefs.Is(err, errdefs.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	})
}
