package store

import (
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// maxRecent is how many machines are kept in memory: a few MiB at most.
const maxRecent = 4096

// recent keeps machines as they were read last, so that what asks for the same
// one again and again (a status, a command) needs no query. The Store is the
// only writer of its database, and forgets a machine with each write to it. The
// values share their slices and pointers with those that are handed out:
// nobody changes what a machine.Machine refers to, only what it is.
type recent struct {
	mu       sync.RWMutex
	writes   int // how many there have been
	machines map[machine.ID]machine.Machine
}

// get returns a machine, or false and what keep needs to know.
func (r *recent) get(id machine.ID) (_ machine.Machine, ok bool, writes int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	m, ok := r.machines[id]
	return m, ok, r.writes
}

// keep remembers a machine that was read after get said that there had been so
// many writes. Another write meanwhile may have changed it: then it is dropped.
func (r *recent) keep(m machine.Machine, writes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.writes != writes {
		return
	}
	if r.machines == nil || len(r.machines) >= maxRecent {
		r.machines = map[machine.ID]machine.Machine{}
	}
	r.machines[m.ID] = m
}

// forget is called after each write, whether it succeeded or not and before its
// caller learns of it.
func (r *recent) forget(id machine.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.writes++
	delete(r.machines, id)
}
