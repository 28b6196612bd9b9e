package machine

import (
	"fmt"
	"strings"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Quota is how much machines may have together. What is zero is not limited.
//
// Machines and DiskMiB count from create to delete: each disk may grow to its
// size. VCPUs and MemMiB count while a VMM may exist: from the beginning of a
// start until the machine is stopped or failed.
type Quota struct {
	Machines int
	DiskMiB  int
	VCPUs    int
	MemMiB   int
}

// QuotaError says what is used up. It is the cause of an errdefs.Quota.
type QuotaError struct{ Shortages []Shortage }

// Shortage is one thing of which there is not enough left.
type Shortage struct {
	Scope    string // "host" or "key"
	Resource string // "machines", "disk_mib", "vcpus" or "mem_mib"
	Used     int64
	Asked    int64
	Allowed  int64
}

func (s Shortage) String() string {
	return fmt.Sprintf("%d of %d %s of this %s are used, %d more asked for", s.Used, s.Allowed, s.Resource, s.Scope, s.Asked)
}

// Error lists the shortages.
func (e *QuotaError) Error() string {
	list := make([]string, len(e.Shortages))
	for i, s := range e.Shortages {
		list[i] = s.String()
	}
	return strings.Join(list, "; ")
}

// amount is what machines take, in the order of resources.
type amount [4]int64

var resources = [4]string{"machines", "disk_mib", "vcpus", "mem_mib"}

func (q Quota) amount() amount {
	return amount{int64(q.Machines), int64(q.DiskMiB), int64(q.VCPUs), int64(q.MemMiB)}
}

func (a *amount) add(b amount, sign int64) {
	for i := range a {
		a[i] += sign * b[i]
	}
}

// existing is what a machine takes from create to delete, and up what it takes
// beside that while it is up.
func existing(mc *Machine) amount { return amount{1, int64(mc.Spec.DiskMiB), 0, 0} }
func up(mc *Machine) amount       { return amount{0, 0, int64(mc.Spec.VCPUs), int64(mc.Spec.MemMiB)} }

// ledger is what each machine takes of the quotas. It is made of the records at
// the start and kept beside them. All its methods may be called again, with no
// further effect.
type ledger struct {
	host, owner amount // allowed; zeros are not limited

	mu      sync.Mutex
	entries map[ID]ledgerEntry
	total   amount
	owners  map[string]*amount // of those who have machines; never ""
}

type ledgerEntry struct {
	owner string
	takes amount
	up    amount // part of takes, zero while it is down
}

// newLedger returns nil, which allows everything, where nothing is limited.
func newLedger(host, owner Quota) *ledger {
	if host == (Quota{}) && owner == (Quota{}) {
		return nil
	}
	return &ledger{host: host.amount(), owner: owner.amount(), entries: map[ID]ledgerEntry{}, owners: map[string]*amount{}}
}

// restore notes a machine that is there already, whatever the quotas say now.
func (l *ledger) restore(mc *Machine) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := ledgerEntry{owner: mc.Owner, takes: existing(mc)}
	if mc.State.Active() {
		e.up = up(mc)
		e.takes.add(e.up, 1)
	}
	l.set(mc.ID, e)
}

// create takes what a new machine needs, or fails with errdefs.Quota. undo
// gives it back.
func (l *ledger) create(mc *Machine) (undo func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.entries[mc.ID]; ok {
		return func() {}, nil // the store will say that it exists
	}
	if err := l.check(mc.Owner, existing(mc)); err != nil {
		return nil, err
	}
	l.set(mc.ID, ledgerEntry{owner: mc.Owner, takes: existing(mc)})
	return func() { l.remove(mc.ID) }, nil
}

// raise takes what a machine needs that starts, or fails with errdefs.Quota.
func (l *ledger) raise(mc *Machine) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[mc.ID]
	if e.up != (amount{}) {
		return nil
	}
	if err := l.check(e.owner, up(mc)); err != nil {
		return err
	}
	e.up = up(mc)
	e.takes.add(e.up, 1)
	l.set(mc.ID, e)
	return nil
}

// lower gives back what raise took.
func (l *ledger) lower(id ID) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.entries[id]; ok {
		e.takes.add(e.up, -1)
		e.up = amount{}
		l.set(id, e)
	}
}

// remove gives back all that the machine takes.
func (l *ledger) remove(id ID) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(id, ledgerEntry{owner: l.entries[id].owner})
	delete(l.entries, id)
}

// set needs mu.
func (l *ledger) set(id ID, e ledgerEntry) {
	before := l.entries[id]
	l.entries[id] = e
	l.total.add(before.takes, -1)
	l.total.add(e.takes, 1)
	if e.owner == "" {
		return
	}
	sum := l.owners[e.owner]
	if sum == nil {
		sum = &amount{}
		l.owners[e.owner] = sum
	}
	sum.add(before.takes, -1)
	sum.add(e.takes, 1)
	if *sum == (amount{}) {
		delete(l.owners, e.owner)
	}
}

// check needs mu.
func (l *ledger) check(owner string, asked amount) error {
	short := shortages("host", l.total, l.host, asked)
	if owner != "" {
		var used amount
		if sum := l.owners[owner]; sum != nil {
			used = *sum
		}
		short = append(shortages("key", used, l.owner, asked), short...)
	}
	if len(short) == 0 {
		return nil
	}
	err := &QuotaError{short}
	return errdefs.Wrap(err, errdefs.Quota, "QUOTA_EXCEEDED", "quota used up: %s", err.Error())
}

func shortages(scope string, used, allowed, asked amount) (list []Shortage) {
	for i, resource := range resources {
		if asked[i] > 0 && allowed[i] > 0 && used[i]+asked[i] > allowed[i] {
			list = append(list, Shortage{scope, resource, used[i], asked[i], allowed[i]})
		}
	}
	return list
}
