package machine

import "sync"

// hub tells waiters which states machines reach. A state is told when it is
// recorded, so a waiter misses none, however briefly it lasts.
type hub struct {
	mu   sync.Mutex
	subs map[ID]map[*subscription]struct{}
}

// subscription is one waiter for one state of one machine. reached gets the
// machine when it is in that state, and is closed when it has been deleted.
type subscription struct {
	id      ID
	state   State
	reached chan Machine
}

func (h *hub) subscribe(id ID, state State) *subscription {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &subscription{id: id, state: state, reached: make(chan Machine, 1)}
	if h.subs == nil {
		h.subs = make(map[ID]map[*subscription]struct{})
	}
	if h.subs[id] == nil {
		h.subs[id] = make(map[*subscription]struct{})
	}
	h.subs[id][s] = struct{}{}
	return s
}

// cancel forgets the subscription. It is idempotent.
func (h *hub) cancel(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remove(s)
}

func (h *hub) remove(s *subscription) {
	delete(h.subs[s.id], s)
	if len(h.subs[s.id]) == 0 {
		delete(h.subs, s.id)
	}
}

// changed tells those who wait for the state that mc is in now.
func (h *hub) changed(mc Machine) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs[mc.ID] {
		if s.state == mc.State {
			s.reached <- mc // never blocks: one place, one message
			h.remove(s)
		}
	}
}

// deleted tells everybody who waits for the machine.
func (h *hub) deleted(id ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs[id] {
		close(s.reached)
		h.remove(s)
	}
}
