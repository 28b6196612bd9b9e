package image

import (
	"context"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// flight is one pull that any number of callers wait for. It ends early when
// none is left.
type flight struct {
	cancel context.CancelFunc
	done   chan struct{}

	// Guarded by the Store's mutex.
	waiters   int
	abandoned bool            // nobody waits; it is on its way out
	digest    manifest.Digest // once done: each waiter has a lease of it
	err       error           // once done

	mu          sync.Mutex
	subscribers map[chan machine.ImageProgress]struct{}
}

// progressBacklog is how many steps a slow caller may be behind before it
// misses some.
const progressBacklog = 64

// publish tells every caller of a step.
func (f *flight) publish(p machine.ImageProgress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ch := range f.subscribers {
		select {
		case ch <- p:
		default:
		}
	}
}

func (f *flight) subscribe() chan machine.ImageProgress {
	ch := make(chan machine.ImageProgress, progressBacklog)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subscribers[ch] = struct{}{}
	return ch
}

func (f *flight) unsubscribe(ch chan machine.ImageProgress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.subscribers, ch)
}

// pullOf makes an image and leases it once; publish takes its progress.
type pullOf func(ctx context.Context, publish func(machine.ImageProgress)) (manifest.Digest, error)

// fly joins the flight of that key, or starts it, and returns the image leased.
// When ctx ends the caller leaves, and the flight goes on for the others.
func (s *Store) fly(ctx context.Context, key string, pull pullOf, report func(machine.ImageProgress)) (manifest.Digest, error) {
	f, err := s.board(ctx, key, pull)
	if err != nil {
		return "", err
	}
	steps := f.subscribe()
	defer f.unsubscribe(steps)
	for {
		select {
		case p := <-steps:
			report(p)
		case <-f.done:
			return f.digest, f.err
		case <-ctx.Done():
			s.leave(f)
			return "", context.Cause(ctx)
		}
	}
}

func (s *Store) board(ctx context.Context, key string, pull pullOf) (*flight, error) {
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return nil, errClosed
		}
		f := s.flights[key]
		if f == nil {
			f = s.depart(key, pull)
		}
		if !f.abandoned {
			f.waiters++
			s.stats.Misses++
			s.mu.Unlock()
			return f, nil
		}
		s.mu.Unlock()
		select {
		case <-f.done: // its files are free now
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// depart starts a flight. The mutex is held.
func (s *Store) depart(key string, pull pullOf) *flight {
	ctx, cancel := context.WithTimeoutCause(s.life, s.opts.Limits.Time, errTimeout)
	f := &flight{cancel: cancel, done: make(chan struct{}), subscribers: make(map[chan machine.ImageProgress]struct{})}
	s.flights[key] = f
	s.wg.Go(func() {
		defer cancel()
		digest, err := pull(ctx, f.publish)
		err = explain(ctx, err)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.flights, key)
		if err == nil {
			s.stats.Pulls++
			s.images[digest].leases += f.waiters - 1 // one is the pull's own
		} else {
			s.stats.Failures++
		}
		f.digest, f.err = digest, err
		close(f.done)
	})
	return f
}

// leave gives up a place in a flight.
func (s *Store) leave(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-f.done:
		if f.err == nil {
			s.releaseLocked(f.digest)
		}
		return
	default:
	}
	if f.waiters--; f.waiters == 0 {
		f.abandoned = true
		f.cancel()
	}
}
