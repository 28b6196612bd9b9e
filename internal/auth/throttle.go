package auth

import (
	"container/list"
	"context"
	"log/slog"
	"math"
	"net/netip"
	"sync"
	"time"
)

// FreeFailures is how many wrong keys of an address are answered at once.
const FreeFailures = 5

const (
	firstWait     = 100 * time.Millisecond // of the next one; it doubles with each
	longestWait   = 5 * time.Second
	forgetOne     = 10 * time.Second // in which one failure is forgotten
	mostFailures  = 12               // that an address is remembered for
	waitersOfOne  = 8                // failures of an address that wait at a time
	waitersOfAll  = 256
	addressesKept = 4096
)

// Throttle slows those who try wrong keys: the more failures of an address are
// remembered, the longer the answer to the next one waits. A right key is none
// of its business, so nobody is locked out by who shares its address. It keeps
// guesses from filling the processor and the log; what makes keys safe is their
// 192 bits.
//
// IPv6 addresses count by their /64, which one host has to itself.
type Throttle struct {
	log *slog.Logger

	mu      sync.Mutex
	table   map[netip.Prefix]*list.Element
	order   list.List // of *failures, the latest first
	waiting int       // of all
}

// failures are those of one address.
type failures struct {
	addr    netip.Prefix
	count   float64 // as of last; it leaks away
	last    time.Time
	waiting int
}

// NewThrottle returns a Throttle that remembers nothing.
func NewThrottle(log *slog.Logger) *Throttle {
	return &Throttle{log: log, table: map[netip.Prefix]*list.Element{}}
}

// Fail notes that a wrong key came from addr, and waits as long as that costs,
// or until ctx ends. It returns false at once when too many wait already: the
// caller should be sent away.
func (t *Throttle) Fail(ctx context.Context, addr netip.Addr) bool {
	f, wait, ok := t.begin(network(addr))
	if wait == 0 {
		return ok
	}
	pause(ctx, wait)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting--
	f.waiting--
	return true
}

// begin counts a failure, and its wait when there is one.
func (t *Throttle) begin(addr netip.Prefix) (*failures, time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.of(addr)
	f.forget(time.Now())
	slowed := f.wait() > 0
	f.count = min(f.count+1, mostFailures)
	wait := f.wait()
	if wait == 0 {
		return f, 0, true
	}
	if !slowed {
		t.log.Warn("wrong API keys come from an address: their answers wait from now on", slog.String("address", addr.String()))
	}
	if f.waiting >= waitersOfOne || t.waiting >= waitersOfAll {
		return f, 0, false
	}
	f.waiting++
	t.waiting++
	return f, wait, true
}

// of finds the failures of an address. A full table forgets those of the
// address that has failed least recently. It needs mu.
func (t *Throttle) of(addr netip.Prefix) *failures {
	if e, ok := t.table[addr]; ok {
		t.order.MoveToFront(e)
		return e.Value.(*failures)
	}
	if len(t.table) >= addressesKept {
		oldest := t.order.Back()
		delete(t.table, t.order.Remove(oldest).(*failures).addr)
	}
	f := &failures{addr: addr}
	t.table[addr] = t.order.PushFront(f)
	return f
}

// forget lets the count leak, as of now.
func (f *failures) forget(now time.Time) {
	f.count = max(0, f.count-float64(now.Sub(f.last))/float64(forgetOne))
	f.last = now
}

// wait is what a failure costs that the count includes.
func (f *failures) wait() time.Duration {
	over := math.Ceil(f.count - FreeFailures)
	if over <= 0 {
		return 0
	}
	return min(firstWait<<(int(over)-1), longestWait)
}

// network is what addresses count by.
func network(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits) // the zero Prefix for the zero Addr
	return p
}
