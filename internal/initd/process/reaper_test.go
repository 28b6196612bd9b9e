package process_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/process"
)

func start(t testing.TB, script string) *process.Process {
	t.Helper()
	p, err := reaper.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{
		Env: []string{"PATH=/usr/bin:/bin"}, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func awaitExit(t testing.TB, p *process.Process) syscall.WaitStatus {
	t.Helper()
	select {
	case <-p.Done():
		return p.Status()
	case <-time.After(30 * time.Second):
		t.Fatalf("process %d has not ended", p.PID)
		return 0
	}
}

func TestReaperLosesNoExitCode(t *testing.T) {
	const n, parallel = 2000, 16
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p := start(t, fmt.Sprintf("exit %d", i%256))
			if got := awaitExit(t, p).ExitStatus(); got != i%256 {
				t.Errorf("exit %d came as %d", i%256, got)
			}
		})
	}
	wg.Wait()
}

func TestReaperFailedStartIsNoChild(t *testing.T) {
	for range 100 {
		_, err := reaper.Start("/nonexistent", []string{"x"}, &syscall.ProcAttr{})
		if !errors.Is(err, unix.ENOENT) {
			t.Fatalf("Start = %v, want ENOENT", err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	awaitExit(t, start(t, "exit 0"))
	if err := reaper.WaitIdle(ctx); err != nil {
		t.Errorf("WaitIdle: %v", err)
	}
}

func TestReaperReapsOrphans(t *testing.T) {
	for len(orphans) > 0 {
		<-orphans
	}
	awaitExit(t, start(t, "sleep 0.1 & exit 0"))
	select {
	case <-orphans:
	case <-time.After(30 * time.Second):
		t.Fatal("orphan was not reaped")
	}
}

func TestProcessSignalAfterEnd(t *testing.T) {
	p := start(t, "exit 0")
	awaitExit(t, p)
	if err := p.Signal(unix.SIGTERM); !errors.Is(err, process.ErrEnded) {
		t.Errorf("Signal = %v, want ErrEnded", err)
	}
}

func TestTreeSignalReachesDescendants(t *testing.T) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	// The grandchildren hold the pipe: it is at EOF when all are dead.
	p, err := reaper.Start("/bin/sh", []string{"sh", "-c", "sleep 300 & (sleep 300 & sleep 300) & echo up; wait"}, &syscall.ProcAttr{
		Env: []string{"PATH=/usr/bin:/bin"}, Files: []uintptr{0, uintptr(fds[1]), 2}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	unix.Close(fds[1])
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := unix.Read(fds[0], buf); err != nil || string(buf[:n]) != "up\n" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
	if err := process.NewTree(p, nil).Kill(); err != nil {
		t.Fatal(err)
	}
	if ws := awaitExit(t, p); ws.Signal() != unix.SIGKILL {
		t.Errorf("ended by %v", ws)
	}
	if n, err := unix.Read(fds[0], buf); n != 0 || err != nil {
		t.Errorf("read %d, %v: somebody lives", n, err)
	}
}

// A thread of the runtime's monitor has a large timer slack; a command that is
// forked from it does not.
func TestStartResetsTimerSlack(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 4_000_000, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	p := start(t, `test "$(cat /proc/$$/timerslack_ns)" = 50000`)
	if code := awaitExit(t, p).ExitStatus(); code != 0 {
		t.Error("the command has the slack of the thread that forked it")
	}
}
