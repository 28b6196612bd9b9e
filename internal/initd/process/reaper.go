// Package process starts the guest's processes, reaps every one of them, and
// holds each command together with its descendants as one tree that can be
// signalled as a whole.
//
// There is one Reaper in a program and nobody else may wait for a child: not
// os/exec, not os.Process.Wait. Types are safe for concurrent use.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrEnded is returned for a process that has been reaped.
var ErrEnded = errors.New("process has ended")

// Reaper owns every wait of the program. Starting a process and collecting an
// exit exclude each other, so that no exit is seen before its owner is known.
type Reaper struct {
	orphan func() // called after an exit that belongs to nobody; may be nil

	mu    sync.Mutex
	procs map[int]*Process
	idle  chan struct{} // closed while there is no child at all
}

// NewReaper returns a Reaper whose Run must be called. orphan, when not nil, is
// called from Run for each reaped process that was adopted, not started.
func NewReaper(orphan func()) *Reaper {
	idle := make(chan struct{})
	close(idle)
	return &Reaper{orphan: orphan, procs: map[int]*Process{}, idle: idle}
}

// Process is one started child.
type Process struct {
	PID int

	reaper *Reaper
	done   chan struct{}
	status syscall.WaitStatus // valid once done is closed
}

// Start forks and executes path. An error is the errno of the step that failed,
// mostly of execve itself.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (*Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := forkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, reaper: r, done: make(chan struct{})}
	r.procs[pid] = p
	r.busy()
	return p, nil
}

// commandSlack is by how much the timers of a process may be late, in
// nanoseconds; it is the kernel's own default (prctl(2), PR_SET_TIMERSLACK).
const commandSlack = 50_000

// forkExec is syscall.ForkExec for a child with the default timer slack. A child
// inherits that of the thread that forks, and threads that the runtime's monitor
// has started have the monitor's, see initd.relaxMonitor.
func forkExec(path string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, commandSlack, 0, 0, 0); err != nil {
		return 0, err
	}
	return syscall.ForkExec(path, argv, attr)
}

// busy notes that there is a child. mu is held.
func (r *Reaper) busy() {
	select {
	case <-r.idle:
		r.idle = make(chan struct{})
	default:
	}
}

// rest notes that there is none. mu is held.
func (r *Reaper) rest() {
	select {
	case <-r.idle:
	default:
		close(r.idle)
	}
}

// Done is closed when the process has been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status says how the process ended; it is valid once Done is closed.
func (p *Process) Status() syscall.WaitStatus { return p.status }

// Signal sends sig to the process alone, and never to another one that got its
// number later.
func (p *Process) Signal(sig syscall.Signal) error {
	return p.whileUnreaped(func() error { return unix.Kill(p.PID, sig) })
}

// whileUnreaped calls f while the process's number cannot be reused.
func (p *Process) whileUnreaped(f func() error) error {
	p.reaper.mu.Lock()
	defer p.reaper.mu.Unlock()
	if p.reaper.procs[p.PID] != p {
		return ErrEnded
	}
	return f()
}

// Run reaps until ctx is done and no child is left.
//
// It learns of exits from SIGCHLD and does not block in a wait: who blocks in a
// system call keeps a processor of the runtime's until its monitor takes it
// away, and a guest with one vCPU has one. There is one Run at a time.
func (r *Reaper) Run(ctx context.Context) error {
	exits := make(chan os.Signal, 1) // one note for many: reap takes all
	signal.Notify(exits, unix.SIGCHLD)
	defer signal.Stop(exits)
	done := ctx.Done()
	for {
		left, err := r.reap()
		if err != nil {
			return fmt.Errorf("wait for any child: %w", err)
		}
		if !left && ctx.Err() != nil {
			return nil
		}
		select {
		case <-exits:
		case <-done:
			done = nil // the exits of the others are awaited
		}
	}
}

// reap collects every child that has ended, and reports whether others are left.
func (r *Reaper) reap() (left bool, err error) {
	for {
		p, pid, err := r.next()
		switch {
		case errors.Is(err, unix.ECHILD):
			return false, nil
		case err != nil:
			return false, err
		case pid == 0:
			return true, nil
		case p != nil:
			close(p.done)
		case r.orphan != nil:
			r.orphan()
		}
	}
}

// next collects one child; p is nil when it was adopted, and pid is 0 when none
// has ended.
func (r *Reaper) next() (p *Process, pid int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err = ignoringEINTR(func() (int, error) { return unix.Wait4(-1, &status, unix.WNOHANG, nil) })
	if errors.Is(err, unix.ECHILD) {
		r.rest()
	}
	if p = r.procs[pid]; p != nil {
		delete(r.procs, pid)
		p.status = syscall.WaitStatus(status)
	}
	return p, pid, err
}

// WaitIdle blocks until there is no child left, or ctx is done. It is only
// meaningful once nobody starts processes any more.
func (r *Reaper) WaitIdle(ctx context.Context) error {
	r.mu.Lock()
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
