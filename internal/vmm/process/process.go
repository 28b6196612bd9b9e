// Package process starts, identifies, watches and ends the processes of VMMs,
// which outlive the daemon that started them.
//
// A process is held by a pidfd, so a signal never reaches a stranger that got
// the same pid, and its end is noticed without polling. What a process is for
// is the caller's business: the VMM drivers, and nobody else.
//
// The package is Linux only. Methods are safe for concurrent use, except Wait.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone means that an Identity names no living process any more.
var ErrGone = errors.New("process is gone")

// Process is a handle on one process. It holds a descriptor until Close.
type Process struct {
	id    Identity
	pidfd *os.File
}

// Status says how a process ended.
type Status struct {
	Known  bool   // false when it was not a child of ours
	Code   int    // exit status, -1 when killed by a signal
	Signal string // "SIGKILL", ... when killed by one
}

// Open takes a handle on the process that id names. Pid, start time,
// executable and boot must all agree, or the error wraps ErrGone. An ended
// child of ours is reaped on the way.
func Open(id Identity) (*Process, error) {
	if id.PID <= 1 {
		return nil, fmt.Errorf("open process %d: %w", id.PID, ErrGone)
	}
	if boot, err := bootID(); err != nil {
		return nil, err
	} else if boot != id.BootID {
		return nil, fmt.Errorf("open process %d of another boot: %w", id.PID, ErrGone)
	}
	// The handle comes first: what is read from /proc while the handle's
	// process lives is about that process.
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("open process %d: %w", id.PID, ErrGone)
	} else if err != nil {
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	p := &Process{id: id, pidfd: os.NewFile(uintptr(fd), "pidfd")}
	if err := p.verify(); err != nil {
		p.Close()
		return nil, fmt.Errorf("open process %d: %w", id.PID, err)
	}
	return p, nil
}

func (p *Process) verify() error {
	st, err := readStat(p.id.PID)
	if err != nil {
		return err
	}
	if st.startTime != p.id.StartTime {
		return ErrGone
	}
	if ended, err := p.ended(); err != nil {
		return err
	} else if ended {
		_, err := p.reap()
		return errors.Join(ErrGone, err)
	}
	exe, err := readExe(p.id.PID)
	if err != nil {
		return err
	}
	if exe != p.id.Exe {
		return ErrGone
	}
	// It lived until here, so all of the above was about it.
	if ended, err := p.ended(); err != nil || ended {
		return errors.Join(ErrGone, err)
	}
	return nil
}

// Identity returns what names the process for a later Open.
func (p *Process) Identity() Identity { return p.id }

// Wait blocks until the process has ended, reaps it when it is our child, and
// says how it ended. When ctx ends first it returns ctx's error. One Wait at a
// time.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return Status{}, fmt.Errorf("wait for process %d: %w", p.id.PID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = p.pidfd.SetReadDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			_ = p.pidfd.SetReadDeadline(time.Time{})
		}
	}()
	// The runtime's poller watches the pidfd: no thread waits.
	err = conn.Read(func(fd uintptr) bool {
		ended, err := readable(int(fd))
		return ended || err != nil
	})
	if ctx.Err() != nil {
		return Status{}, ctx.Err()
	} else if err != nil {
		if closed := p.control(func(int) error { return nil }); closed != nil {
			err = closed
		}
		return Status{}, fmt.Errorf("wait for process %d: %w", p.id.PID, err)
	}
	return p.reap()
}

// Kill sends SIGKILL and does not wait. Killing an ended process is no error.
func (p *Process) Kill() error {
	err := p.control(func(fd int) error { return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) })
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.id.PID, err)
	}
	return nil
}

// Close lets go of the process without ending it. It is idempotent. What is
// asked of the process from then on fails with os.ErrClosed.
func (p *Process) Close() { p.pidfd.Close() }

func (p *Process) ended() (ended bool, err error) {
	err = p.control(func(fd int) error {
		ended, err = readable(fd)
		return err
	})
	return ended, err
}

// reap collects the status of an ended process, unless it is not our child.
func (p *Process) reap() (Status, error) {
	var info unix.Siginfo
	err := p.control(func(fd int) error {
		return retryEINTR(func() error {
			return unix.Waitid(unix.P_PIDFD, fd, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		})
	})
	if errors.Is(err, unix.ECHILD) {
		return Status{}, nil
	} else if err != nil {
		return Status{}, fmt.Errorf("reap process %d: %w", p.id.PID, err)
	}
	// It is an unreaped child, so nobody else can have its pid.
	var ws unix.WaitStatus
	err = retryEINTR(func() error {
		_, err := unix.Wait4(p.id.PID, &ws, unix.WNOHANG, nil)
		return err
	})
	if errors.Is(err, unix.ECHILD) {
		return Status{}, nil // another handle of ours was first
	} else if err != nil {
		return Status{}, fmt.Errorf("reap process %d: %w", p.id.PID, err)
	}
	if ws.Signaled() {
		return Status{Known: true, Code: -1, Signal: unix.SignalName(ws.Signal())}, nil
	}
	return Status{Known: true, Code: ws.ExitStatus()}, nil
}

func (p *Process) control(f func(fd int) error) error {
	conn, err := p.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	// It fails for a closed file alone, with an error of the runtime's own that
	// is not os.ErrClosed.
	if conn.Control(func(fd uintptr) { inner = f(int(fd)) }) != nil {
		return os.ErrClosed
	}
	return inner
}

// readable reports whether the process behind a pidfd has ended: pidfd_open(2).
func readable(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n := 0
	err := retryEINTR(func() (err error) {
		n, err = unix.Poll(fds, 0)
		return err
	})
	return n > 0, err
}

func retryEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
