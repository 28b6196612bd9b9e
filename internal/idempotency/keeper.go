package idempotency

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	// pruneEvery is how often expired records are removed.
	pruneEvery = 10 * time.Minute
	// recordTimeout bounds the recording of a result.
	recordTimeout = 10 * time.Second
)

// Errors of keys. The first two are for the caller to mend.
var (
	errReused  error = errdefs.New(errdefs.Conflict, "IDEMPOTENCY_KEY_REUSED", "this Idempotency-Key was used for another request")
	errUnknown error = errdefs.New(errdefs.Conflict, "IDEMPOTENCY_OUTCOME_UNKNOWN", "the first request with this Idempotency-Key was cut off: look whether it had its effect, then use another key")
	errDropped error = errdefs.New(errdefs.Conflict, "IDEMPOTENCY_RESULT_NOT_KEPT", "the request with this Idempotency-Key has been done, and its answer was too large to be kept")
)

// Request is what a caller asks for under a key.
type Request struct {
	Key         Key
	Operation   string
	Fingerprint Fingerprint
	Reference   string // for what the operation makes, should this be the first
	Repeatable  bool   // it may be done again when it was cut off
}

// Keeper knows which requests are under way and what came of earlier ones. It
// is safe for concurrent use. There is one for each Store.
type Keeper struct {
	store  Store
	bounds Bounds
	log    *slog.Logger

	mu      sync.Mutex
	working map[Key]*work
}

// work is a request that is being done.
type work struct {
	operation   string
	fingerprint Fingerprint
	done        chan struct{}
}

// NewKeeper returns a Keeper of what the store holds.
func NewKeeper(store Store, bounds Bounds, log *slog.Logger) *Keeper {
	return &Keeper{store: store, bounds: bounds, log: log, working: map[Key]*work{}}
}

// Run removes expired records now and then, until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		if err := k.store.PruneRequests(ctx, time.Now()); err != nil && ctx.Err() == nil {
			k.log.Warn("remove expired idempotency records", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// Begin returns either an attempt, which the caller makes and ends, or the
// result of an earlier one. While another request of the key is under way it
// waits, bounded by ctx.
func (k *Keeper) Begin(ctx context.Context, req Request) (*Attempt, *Result, error) {
	w := &work{operation: req.Operation, fingerprint: req.Fingerprint, done: make(chan struct{})}
	for {
		other := k.claim(req.Key, w)
		if other == nil {
			break
		}
		if !same(req, other.operation, other.fingerprint) {
			return nil, nil, errReused
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("await the first request of an idempotency key: %w", context.Cause(ctx))
		}
	}
	a, result, err := k.start(ctx, req, w)
	if a == nil {
		k.release(req.Key, w)
	}
	return a, result, err
}

// claim makes w the key's work, or returns what is so already.
func (k *Keeper) claim(key Key, w *work) *work {
	k.mu.Lock()
	defer k.mu.Unlock()
	if other := k.working[key]; other != nil {
		return other
	}
	k.working[key] = w
	return nil
}

func (k *Keeper) release(key Key, w *work) {
	k.mu.Lock()
	delete(k.working, key)
	k.mu.Unlock()
	close(w.done)
}

func same(req Request, operation string, f Fingerprint) bool {
	return req.Operation == operation && req.Fingerprint == f
}

// start looks at the record of a key that nobody works on.
func (k *Keeper) start(ctx context.Context, req Request, w *work) (*Attempt, *Result, error) {
	now := time.Now()
	old, found, err := k.store.StartRequest(ctx, Record{
		Key: req.Key, Operation: req.Operation, Fingerprint: req.Fingerprint, Reference: req.Reference,
		CreatedAt: now, ExpiresAt: now.Add(Lifetime),
	})
	a := &Attempt{keeper: k, key: req.Key, work: w, Reference: req.Reference}
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("record an idempotency key: %w", err)
	case !found:
		return a, nil, nil
	case !same(req, old.Operation, old.Fingerprint):
		return nil, nil, errReused
	case old.Result == nil && !req.Repeatable:
		return nil, nil, errUnknown
	case old.Result == nil:
		a.Reference, a.Again = old.Reference, true
		return a, nil, nil
	case old.Result.Dropped:
		return nil, nil, errDropped
	}
	return nil, old.Result, nil
}

// Attempt is the doing of a request. Exactly one of Finish, Forget and Leave
// ends it; requests that wait go on then.
type Attempt struct {
	Reference string // what the request makes; chosen by the first attempt
	Again     bool   // an earlier attempt was cut off: Reference may exist

	keeper *Keeper
	key    Key
	work   *work
}

// Finish records the result. When it cannot, the request counts as cut off.
func (a *Attempt) Finish(ctx context.Context, r Result) error {
	if len(r.Body) > MaxBody {
		r.Body, r.Dropped = nil, true
	}
	return a.end(ctx, "record the result of an idempotency key", func(ctx context.Context) error {
		return a.keeper.store.FinishRequest(ctx, a.key, r, a.keeper.bounds)
	})
}

// Forget drops the record: the next request of the key is the first again.
func (a *Attempt) Forget(ctx context.Context) error {
	return a.end(ctx, "forget an idempotency key", func(ctx context.Context) error {
		return a.keeper.store.ForgetRequest(ctx, a.key)
	})
}

// Leave ends an attempt that was cut off.
func (a *Attempt) Leave() { a.keeper.release(a.key, a.work) }

// end records something even if the request's context has ended.
func (a *Attempt) end(ctx context.Context, what string, record func(context.Context) error) error {
	defer a.Leave()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	if err := record(ctx); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
