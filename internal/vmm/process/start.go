package process

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command is a process to start.
type Command struct {
	Path     string     // absolute
	Argv     []string   // with argv[0]
	Env      []string   // the whole environment
	Files    []*os.File // descriptors 0, 1, 2, ...; nothing else is inherited. The caller keeps and closes them
	UID, GID int        // whom it runs as; a UID of 0 means as ourselves
}

// coreMu guards the moment in which our own limit on core dumps is lowered.
var coreMu sync.Mutex

// Start starts a process that outlives us: in a session of its own, its working
// directory the root, unable to gain privileges or to dump core. The caller
// closes the handle, and reaps the child by Wait.
func Start(c Command) (*Process, error) {
	type result struct {
		pid, pidfd int
		err        error
	}
	started := make(chan result, 1)
	go func() {
		// "No new privileges" is a property of the thread that a child
		// inherits. The thread ends with this goroutine, which never unlocks it.
		runtime.LockOSThread()
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			started <- result{err: err}
			return
		}
		pid, pidfd, err := fork(c)
		started <- result{pid, pidfd, err}
	}()
	r := <-started
	runtime.KeepAlive(c.Files)
	if r.err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, r.err)
	}
	return adoptChild(r.pid, r.pidfd, c.Path)
}

func fork(c Command) (pid, pidfd int, err error) {
	attr := &syscall.ProcAttr{
		Dir: "/",
		Env: c.Env,
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	}
	for _, f := range c.Files {
		attr.Files = append(attr.Files, f.Fd())
	}
	if c.UID != 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(c.UID), Gid: uint32(c.GID), NoSetGroups: os.Geteuid() != 0}
	}
	if err := inheritNothing(); err != nil {
		return 0, -1, err
	}
	restore, err := noCore()
	if err != nil {
		return 0, -1, err
	}
	defer restore()
	pid, err = syscall.ForkExec(c.Path, c.Argv, attr)
	return pid, pidfd, err
}

// inheritNothing marks every descriptor as ours alone. Those that Go opened are
// so already; this is about what we were started with.
func inheritNothing() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("list descriptors: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// noCore turns core dumps off for what is forked before restore is called: a
// limit belongs to a whole process, and a child of another user cannot be given
// one from outside.
func noCore() (restore func(), err error) {
	coreMu.Lock()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &old); err != nil {
		coreMu.Unlock()
		return nil, fmt.Errorf("read limit of core dumps: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		coreMu.Unlock()
		return nil, fmt.Errorf("turn off core dumps: %w", err)
	}
	return func() {
		// Raising a soft limit to where it was is always allowed.
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &old)
		coreMu.Unlock()
	}, nil
}

// adoptChild makes the handle of a child that was just started.
func adoptChild(pid, pidfd int, path string) (*Process, error) {
	if pidfd < 0 {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return nil, endChild(pid, fmt.Errorf("open process %d: %w", pid, err))
		}
		pidfd = fd
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil, endChild(pid, fmt.Errorf("open process %d: %w", pid, err))
	}
	p := &Process{pidfd: os.NewFile(uintptr(pidfd), "pidfd")}
	id, err := identify(pid, path)
	if err != nil {
		p.Close()
		return nil, endChild(pid, err)
	}
	p.id = id
	return p, nil
}

// endChild ends and reaps a child that we cannot keep.
func endChild(pid int, err error) error {
	_ = unix.Kill(pid, unix.SIGKILL)
	_ = retryEINTR(func() error {
		_, err := unix.Wait4(pid, nil, 0, nil)
		return err
	})
	return err
}
