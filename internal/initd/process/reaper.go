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
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrEnded is returned for a process that has been reaped.
var ErrEnded = errors.New("process has ended")

// Reaper owns every wait of the program. Starting a process and collecting an
// exit exclude each other, so that no exit is seen before its owner is known.
type Reaper struct {
	orphan func() // called after an exit that belongs to nobody; may be nil
	wake   chan struct{}

	mu    sync.Mutex
	procs map[int]*Process
	idle  chan struct{} // closed while there is no child at all
}

// NewReaper returns a Reaper whose Run must be called. orphan, when not nil, is
// called from Run for each reaped process that was adopted, not started.
func NewReaper(orphan func()) *Reaper {
	idle := make(chan struct{})
	close(idle)
	return &Reaper{orphan: orphan, wake: make(chan struct{}, 1), procs: map[int]*Process{}, idle: idle}
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
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid, reaper: r, done: make(chan struct{})}
	r.procs[pid] = p
	r.busy()
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return p, nil
}

// busy notes that there is a child. mu is held.
func (r *Reaper) busy() {
	select {
	case <-r.idle:
		r.idle = make(chan struct{})
	default:
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
func (r *Reaper) Run(ctx context.Context) error {
	for {
		pid, err := nextExit()
		switch {
		case errors.Is(err, unix.ECHILD):
			if !r.sleep(ctx) {
				return nil
			}
		case err != nil:
			return fmt.Errorf("wait for any child: %w", err)
		default:
			r.collect(pid)
		}
	}
}

// sleep waits until there is a child; false when ctx is done before.
func (r *Reaper) sleep(ctx context.Context) bool {
	r.mu.Lock()
	if len(r.procs) == 0 {
		select {
		case <-r.idle:
		default:
			close(r.idle)
		}
	}
	r.mu.Unlock()
	select {
	case <-r.wake:
		return true
	case <-ctx.Done():
		return false
	}
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

func (r *Reaper) collect(pid int) {
	r.mu.Lock()
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	if err != nil || got != pid {
		// syscall.ForkExec collects a child itself whose execve failed.
		r.mu.Unlock()
		return
	}
	p := r.procs[pid]
	delete(r.procs, pid)
	r.mu.Unlock()
	if p == nil {
		if r.orphan != nil {
			r.orphan()
		}
		return
	}
	p.status = syscall.WaitStatus(status)
	close(p.done)
}

// siginfo is the head of Linux's siginfo_t as waitid(2) fills it; its size is
// 128 bytes on 64-bit machines (SI_MAX_SIZE).
type siginfo struct {
	signo, errno, code int32
	_                  int32
	pid                int32
	_                  [108]byte
}

// nextExit blocks until some child has ended and returns its number without
// collecting it.
func nextExit() (int, error) {
	for {
		var info siginfo
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, unix.P_ALL, 0,
			uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		default:
			return int(info.pid), nil
		}
	}
}
