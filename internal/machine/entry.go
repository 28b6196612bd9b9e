package machine

import (
	"context"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/machine/journal"
)

// entry is what the Manager keeps in memory of one machine: its lock, and its
// VMM and session while it runs.
//
// Lock order: entry.sem (held across VMM calls), then Manager.mu or entry.mu
// (leaves, held for a few instructions, never both).
type entry struct {
	id   ID
	sem  chan struct{} // the machine's lock: full while held
	refs int           // callers that hold or want the lock; guarded by Manager.mu

	mu     sync.Mutex
	live   *live                   // nil unless running or paused
	log    *journal.Journal        // nil unless there is, or may be, a VMM
	auth   *RegistryAuth           // until the first start has succeeded
	cancel context.CancelCauseFunc // of the start under way
	downs  int                     // callers that wait to take the machine down
}

// live is a machine's VMM and session. Whoever takes it out of the entry, under
// the machine's lock, ends it.
type live struct {
	vm     VM
	guest  Guest
	paused bool          // guarded by entry.mu
	quit   chan struct{} // closed to end the watcher
}

func (e *entry) current() *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.live
}

func (e *entry) running() *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.live == nil || e.live.paused {
		return nil
	}
	return e.live
}

func (e *entry) setPaused(paused bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live.paused = paused
}

// put makes l the entry's live VMM; whoever does that also calls watch.
func (e *entry) put(l *live) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.live = l
}

// take removes the live VMM from the entry and ends its watcher.
func (e *entry) take() *live {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := e.live
	if l != nil {
		e.live = nil
		close(l.quit)
	}
	return l
}

func (e *entry) login() *RegistryAuth {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.auth
}

func (e *entry) setLogin(auth *RegistryAuth) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.auth = auth
}

// wantDown cancels a start that is under way and keeps others from beginning
// until the returned function is called.
func (e *entry) wantDown() func() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.downs++
	if e.cancel != nil {
		e.cancel(errStopping)
	}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.downs--
	}
}

// beginStart returns the context of a start, which wantDown cancels.
func (e *entry) beginStart(ctx context.Context) (context.Context, func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	if e.downs > 0 {
		cancel(errStopping)
	}
	e.cancel = cancel
	return ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.cancel = nil
		cancel(nil)
	}
}

// ref returns the machine's entry, which stays until unref.
func (m *Manager) ref(id ID) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosing
	}
	e := m.entries[id]
	if e == nil {
		e = &entry{id: id, sem: make(chan struct{}, 1)}
		m.entries[id] = e
	}
	e.refs++
	return e, nil
}

// unref drops an entry that nobody uses and that holds nothing.
func (m *Manager) unref(e *entry) {
	idle := e.current() == nil && e.login() == nil
	m.mu.Lock()
	defer m.mu.Unlock()
	e.refs--
	if e.refs == 0 && idle && m.entries[e.id] == e {
		delete(m.entries, e.id)
	}
}

// lock waits for the machine's lock, bounded by ctx.
func (e *entry) lock(ctx context.Context) error {
	select {
	case e.sem <- struct{}{}:
		return nil
	default:
	}
	select {
	case e.sem <- struct{}{}:
		return nil
	case <-ctx.Done():
		return waitError(ctx)
	}
}

func (e *entry) unlock() { <-e.sem }
