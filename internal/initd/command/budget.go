package command

import "sync"

// budget is the memory that the output of commands may take. A ring needs
// none of it as long as it is small; see output.reserve.
type budget struct {
	evict func() bool // makes room by calling release; false when it cannot

	mu    sync.Mutex
	free  int64
	freed chan struct{} // closed and replaced when something was released
}

func newBudget(bytes int64, evict func() bool) *budget {
	return &budget{evict: evict, free: bytes, freed: make(chan struct{})}
}

// acquire takes n bytes. It waits for them until done is closed, and reports
// whether it got them.
func (b *budget) acquire(n int64, done <-chan struct{}) bool {
	for {
		b.mu.Lock()
		if b.free >= n {
			b.free -= n
			b.mu.Unlock()
			return true
		}
		freed := b.freed
		b.mu.Unlock()
		if b.evict() {
			continue
		}
		select {
		case <-freed:
		case <-done:
			return false
		}
	}
}

func (b *budget) release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.free += n
	close(b.freed)
	b.freed = make(chan struct{})
}
