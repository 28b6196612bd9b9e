package httpapi

import (
	"context"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// limiter bounds how many of something run at a time: in all, and for each API
// key. Local callers have no bound of their own.
type limiter struct {
	what     string // "execs"
	code     string
	all, key int // 0: not bounded

	mu    sync.Mutex
	total int
	keys  map[auth.KeyID]int // of those that have any
}

func newLimiter(what, code string, all, key int) *limiter {
	return &limiter{what: what, code: code, all: all, key: key, keys: map[auth.KeyID]int{}}
}

// limitError says which bound is reached. It is the cause of an
// errdefs.Throttled.
type limitError struct {
	scope, what   string
	used, allowed int
}

func (e *limitError) Error() string { return "limit of " + e.what + " of this " + e.scope }

// take counts one more of the caller, or fails with errdefs.Throttled. The
// result gives it back, once, whoever calls it how often.
func (l *limiter) take(ctx context.Context) (release func(), err error) {
	caller, _ := auth.CallerFrom(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.keys[caller.KeyID]; caller.KeyID != "" && l.key > 0 && n >= l.key {
		return nil, l.full("key", n, l.key)
	}
	if l.all > 0 && l.total >= l.all {
		return nil, l.full("host", l.total, l.all)
	}
	return l.count(caller.KeyID), nil
}

// force is take beyond the bounds, for what runs already.
func (l *limiter) force(ctx context.Context) (release func()) {
	caller, _ := auth.CallerFrom(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count(caller.KeyID)
}

// count needs mu.
func (l *limiter) count(key auth.KeyID) (release func()) {
	l.total++
	if key != "" {
		l.keys[key]++
	}
	return sync.OnceFunc(func() { l.give(key) })
}

func (l *limiter) full(scope string, used, allowed int) error {
	return errdefs.Wrap(&limitError{scope, l.what, used, allowed}, errdefs.Throttled, l.code,
		"%d of %d %s at a time of this %s are under way: try again later", used, allowed, l.what, scope)
}

func (l *limiter) give(key auth.KeyID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if key == "" {
		return
	}
	if l.keys[key]--; l.keys[key] == 0 {
		delete(l.keys, key)
	}
}
