package machinetest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Daemon is the host as one daemon sees it. Lock order: Daemon.mu, Host.mu.
type Daemon struct {
	host *Host
	t    testing.TB

	mu       sync.Mutex
	fault    Fault
	calls    int
	injected bool
	crashed  bool
	dead     chan struct{} // closed when the daemon has crashed
	op       string        // where the fault struck

	handles atomic.Int64 // VMs and sessions that are open
}

// Fault is one failure. The calls of a daemon count from when it is injected.
type Fault struct {
	Call  int  // which call, from 1
	After bool // the call has had its effect
	Crash bool // the daemon dies: no later call has an effect
}

// ErrFault is what a call fails with that Inject chose.
var ErrFault = errors.New("injected fault")

// ErrCrashed is what every call of a daemon fails with that has crashed.
var ErrCrashed = errors.New("the daemon has crashed")

// Daemon returns the host as a new daemon sees it.
func (h *Host) Daemon(t testing.TB) *Daemon {
	return &Daemon{host: h, t: t, dead: make(chan struct{})}
}

// Config returns a Manager's configuration with all interfaces filled in.
func (d *Daemon) Config() machine.Config {
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	return machine.Config{
		Store: storeView{d}, Driver: driver{d}, Guests: guests{d},
		Images: images{d}, Disks: disks{d}, Kernels: kernels{d},
		HostID: "host", StateDir: d.host.stateDir, RunDir: d.host.dir + "/run",
		UIDBase: 900000, PortForwards: true,
	}
}

// Inject arms one fault.
func (d *Daemon) Inject(f Fault) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault, d.calls, d.injected, d.op = f, 0, false, ""
}

// Injected reports whether the fault has struck, and where.
func (d *Daemon) Injected() (op string, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.op, d.injected
}

// Disarm takes back a fault that has not struck yet, and reports whether it has.
func (d *Daemon) Disarm() (struck bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = Fault{}
	return d.injected
}

// Handles is how many VMs and sessions the daemon holds.
func (d *Daemon) Handles() int { return int(d.handles.Load()) }

// Crash kills the daemon: none of its calls has an effect from now on. Its
// machines go on.
func (d *Daemon) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.crash()
}

// crash also moves the state directory away: what the dead daemon's Manager
// still does to files must not be seen by the next.
func (d *Daemon) crash() {
	if d.crashed {
		return
	}
	d.crashed = true
	close(d.dead)
	h := d.host
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.stateDir
	h.crashes++
	h.stateDir = fmt.Sprintf("%s/state-%d", h.dir, h.crashes)
	if err := os.Rename(before, h.stateDir); err != nil {
		d.t.Error(err)
	}
	h.leases = 0 // they are in the daemon's memory
	for _, p := range h.processes {
		p.console = nil
	}
}

// call runs effect as one call of the daemon, unless a fault strikes.
func (d *Daemon) call(op string, effect func() error) error {
	d.mu.Lock()
	if d.crashed {
		d.mu.Unlock()
		return ErrCrashed
	}
	d.calls++
	struck := d.calls == d.fault.Call
	after, err := d.fault.After, ErrFault
	if struck {
		d.injected, d.op = true, op
		if d.fault.Crash {
			err = ErrCrashed
		}
	}
	if struck && !after {
		if d.fault.Crash {
			d.crash()
		}
		d.mu.Unlock()
		return fmt.Errorf("%s: %w", op, err)
	}
	d.mu.Unlock()
	if e := effect(); e != nil || !struck {
		return e
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fault.Crash {
		d.crash()
	}
	return fmt.Errorf("%s: %w", op, err)
}

// opened counts handles: n is 1 or -1.
func (d *Daemon) opened(n int64) { d.handles.Add(n) }
