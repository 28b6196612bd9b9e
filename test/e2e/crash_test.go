//go:build vm

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

func TestVMMDeathIsSeen(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("killed", image)
	if err := syscall.Kill(*m.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	got, err := h.WaitMachine(t.Context(), m.ID, hyperfleet.StatusFailed, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(killed); took > time.Second {
		t.Errorf("seen after %v, want within a second", took)
	}
	if got.ErrorMessage == nil || got.PID != nil {
		t.Errorf("failed machine: %+v", got)
	}
	if _, err := h.StartMachine(t.Context(), m.ID); err != nil {
		t.Errorf("start after the VMM's death: %v", err)
	}
}

func TestGuestPowerOff(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("off", image)
	// The answer may or may not arrive before the guest is gone.
	_, _ = h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"sh", "-c", "kill -INT 1; sleep 20"}})
	if _, err := h.WaitMachine(t.Context(), m.ID, hyperfleet.StatusStopped, 20*time.Second); err != nil {
		t.Error(err)
	}
}

func TestDaemonDeathLeavesMachines(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("survivor", image)
	_, err := h.ExecStream(t.Context(), m.ID, hyperfleet.ExecRequest{
		Command: []string{"sh", "-c", "while [ ! -e /root/go ]; do sleep 0.1; done; echo done; exit 9"}, ExecID: "job",
	}, hyperfleet.ExecIO{Detach: closed()})
	if !errors.Is(err, hyperfleet.ErrDetached) {
		t.Fatalf("detach: %v", err)
	}
	h.KillDaemon()
	if err := syscall.Kill(*m.PID, 0); err != nil {
		t.Fatalf("the VMM ended with the daemon: %v", err)
	}
	h.StartDaemon()
	got, err := h.Machine(t.Context(), m.ID)
	if err != nil || got.Status != hyperfleet.StatusRunning || got.PID == nil || *got.PID != *m.PID {
		t.Fatalf("after the daemon's death: %+v, %v", got, err)
	}
	h.Output(m, "touch", "/root/go")
	var out bytes.Buffer
	res, err := h.AttachExec(t.Context(), m.ID, "job", hyperfleet.ExecOffsets{}, hyperfleet.ExecIO{Stdout: &out})
	if err != nil || res.ExitCode != 9 || out.String() != "done\n" {
		t.Errorf("the command that ran on: %+v, %q, %v", res, out.String(), err)
	}
}

// A client that streams does not notice that the daemon died and came back.
func TestStreamSurvivesDaemon(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("stream", image)
	const lines = 400
	var out bytes.Buffer
	started := &firstWrite{done: make(chan struct{})}
	type result struct {
		res hyperfleet.ExecResult
		err error
	}
	done := make(chan result, 1)
	go func() {
		res, err := h.ExecStream(t.Context(), m.ID, hyperfleet.ExecRequest{
			Command: []string{"sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); sleep 0.02; done; exit 5", lines)},
		}, hyperfleet.ExecIO{Stdout: &tee{started, &out}})
		done <- result{res, err}
	}()
	<-started.done
	h.KillDaemon()
	h.StartDaemon()
	r := <-done
	if r.err != nil || r.res.ExitCode != 5 {
		t.Fatalf("stream: %+v, %v", r.res, r.err)
	}
	var want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if out.String() != want.String() {
		t.Errorf("output has %d bytes, want %d, or other ones", out.Len(), want.Len())
	}
}

type tee struct {
	a, b interface{ Write([]byte) (int, error) }
}

func (w *tee) Write(p []byte) (int, error) {
	n, err := w.b.Write(p)
	_, _ = w.a.Write(p)
	return n, err
}

func closed() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// While the daemon is away a VMM dies: the next daemon says so and cleans up.
func TestVMMDiesWithoutDaemon(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("orphan", image)
	h.KillDaemon()
	if err := syscall.Kill(*m.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	hosttest.Await(t, 10*time.Second, "the VMM is gone", func() error {
		if err := syscall.Kill(*m.PID, 0); err == nil {
			return errors.New("still there")
		}
		return nil
	})
	h.StartDaemon()
	got, err := h.Machine(t.Context(), m.ID)
	if err != nil || got.Status == hyperfleet.StatusRunning || got.ErrorMessage == nil {
		t.Errorf("after the restart: %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(h.Run + "/machines/*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// The daemon is killed while machines start: nothing is lost or left over.
func TestDaemonDiesDuringStart(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Create("halfway", image)
	for _, after := range []time.Duration{20, 100, 400, 1200, 2000} {
		go func() { _, _ = h.StartMachine(t.Context(), m.ID) }()
		<-time.After(after * time.Millisecond)
		h.KillDaemon()
		h.StartDaemon()
		got, err := h.Machine(t.Context(), m.ID)
		if err != nil {
			t.Fatal(err)
		}
		vmms := h.VMMs()
		if running := got.Status == hyperfleet.StatusRunning; running != (len(vmms) == 1) || len(vmms) > 1 {
			t.Errorf("killed after %d ms: status %s, VMMs %v", after, got.Status, vmms)
		}
	}
	if _, err := h.StartMachine(t.Context(), m.ID); err != nil {
		t.Errorf("start in the end: %v", err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	h := hosttest.New(t)
	_, stderr, code := h.CLI("serve")
	if code == 0 || !strings.Contains(stderr, fmt.Sprint(h.DaemonPID())) {
		t.Errorf("a second daemon: exit code %d, %q, want the first one's pid", code, stderr)
	}
	if _, err := os.Stat(h.Run + "/api.sock"); err != nil {
		t.Errorf("the first daemon's socket: %v", err)
	}
}
