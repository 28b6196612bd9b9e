//go:build vm

package e2e

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// Daemons with folders of their own do not meet.
func TestDaemonsSideBySide(t *testing.T) {
	a, image := hosttest.NewWithImage(t)
	b, _ := hosttest.NewWithImage(t)
	ma, mb := a.Start("same-name", image), b.Start("same-name", image)
	if *ma.PID == *mb.PID || ma.ID == mb.ID {
		t.Errorf("machines %+v and %+v", ma, mb)
	}
	a.Output(ma, "sh", "-c", "echo a >/root/who")
	b.Output(mb, "sh", "-c", "echo b >/root/who")
	for _, h := range []*hosttest.Host{a, b} {
		if list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{}); err != nil || len(list) != 1 {
			t.Errorf("a daemon lists %v, %v", list, err)
		}
		if n := len(h.VMMs()); n != 1 {
			t.Errorf("a daemon has %d VMMs", n)
		}
	}
	if _, err := a.Machine(t.Context(), mb.ID); !errors.Is(err, hyperfleet.ErrNotFound) {
		t.Errorf("a knows b's machine: %v", err)
	}
	// The end of one, in order and by a crash, does nothing to the other.
	if err := a.DeleteMachine(t.Context(), ma.ID); err != nil {
		t.Error(err)
	}
	a.KillDaemon()
	if got := b.Output(mb, "cat", "/root/who"); got != "b\n" {
		t.Errorf("b's machine says %q", got)
	}
	a.StartDaemon()
	a.AssertNothingLeft()
	if got := b.Output(mb, "cat", "/root/who"); got != "b\n" {
		t.Errorf("b's machine says %q", got)
	}
}

// A daemon removes at its start what one that was killed has left.
func TestStartSweeps(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	keep := h.Create("keep", image)
	h.KillDaemon()
	images := filepath.Join(h.State, "images")
	if _, err := os.Stat(h.Run + "/api.sock"); err != nil {
		t.Fatalf("a killed daemon leaves its socket: %v", err)
	}
	orphan := staleSocket(t, filepath.Join(h.Run, "run-1.sock"))
	left := []string{
		filepath.Join(images, "tmp", "draft-1"),
		filepath.Join(images, "base", "sha256-"+strings.Repeat("0", 64)+".ext4"), // without a record
		filepath.Join(h.State, "spool", "output-1"),
	}
	for _, path := range left {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.StartDaemon()
	for _, path := range append(left, orphan) {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("still there: %s (%v)", strings.TrimPrefix(path, filepath.Dir(h.State)), err)
		}
	}
	h.AssertNothingLeft()
	if got, err := h.Machine(t.Context(), keep.ID); err != nil || got.Status != hyperfleet.StatusPending {
		t.Errorf("a machine that is none of it: %+v, %v", got, err)
	}
	if _, err := h.StartMachine(t.Context(), keep.ID); err != nil {
		t.Errorf("start after the sweep: %v", err)
	}
}

// staleSocket is one whose owner has gone without removing it.
func staleSocket(t *testing.T, path string) string {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// cliRun is `hyperfleet run` under way, after its command's first line.
type cliRun struct {
	*exec.Cmd
	stdout io.Reader
	stderr *strings.Builder
}

func startRun(t *testing.T, h *hosttest.Host, args ...string) *cliRun {
	t.Helper()
	r := &cliRun{Cmd: exec.CommandContext(t.Context(), filepath.Join(h.Bin, "hyperfleet"), append([]string{"run"}, args...)...), stderr: &strings.Builder{}}
	r.Env, r.Stderr = h.Env, r.stderr
	pipe, err := r.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	stdout := bufio.NewReader(pipe)
	if line, err := stdout.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the command said %q: %v; %v: %s", line, err, r.Wait(), r.stderr)
	}
	r.stdout = stdout
	return r
}

// waitCode waits for the end and returns the exit code and the rest of the output.
func (r *cliRun) waitCode(t *testing.T) (int, string) {
	t.Helper()
	rest, err := io.ReadAll(r.stdout)
	if err != nil {
		t.Error(err)
	}
	err = r.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode(), string(rest)
	}
	if err != nil {
		t.Errorf("%v: %s", err, r.stderr)
	}
	return 0, string(rest)
}

// TestRunIsSignalled ends runs by signals, with and without a daemon.
func TestRunIsSignalled(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	for _, c := range []struct {
		name, script string
		code         int
		output       string
	}{
		{"trapped", "trap 'echo term; exit 42' TERM; echo ready; while :; do sleep 0.1; done", 42, "term\n"},
		{"default", "echo ready; exec sleep 1000", 128 + int(syscall.SIGTERM), ""},
	} {
		run := func(t *testing.T) {
			r := startRun(t, h, "--rm", image, "--", "sh", "-c", c.script)
			if err := r.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if code, out := r.waitCode(t); code != c.code || out != c.output {
				t.Errorf("exit code %d, output %q, want %d, %q; stderr %s", code, out, c.code, c.output, r.stderr)
			}
			h.AssertNothingLeft()
		}
		t.Run(c.name, run)
		h.StopDaemon()
		t.Run(c.name+" without a daemon", run)
		h.StartDaemon()
		if list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{}); err != nil || len(list) > 0 {
			t.Errorf("machines are left: %v, %v", list, err)
		}
	}
}

// A run that brought its own engine is killed: its machine is the next
// engine's, whatever that is.
func TestRunIsKilled(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	h.StopDaemon()
	r := startRun(t, h, "--rm", image, "--", "sh", "-c", "echo ready; exec sleep 1000")
	if err := r.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = r.Wait()
	h.StartDaemon()
	if socks, _ := filepath.Glob(h.Run + "/run-*.sock"); len(socks) > 0 {
		t.Errorf("the killed run's socket is left: %v", socks)
	}
	list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	vmms := h.VMMs()
	switch {
	case len(list) == 0 && len(vmms) == 0: // cleaned up
	case len(list) == 1 && len(vmms) == 1 && list[0].Status == hyperfleet.StatusRunning: // adopted
		h.Output(list[0], "true")
		if err := h.DeleteMachine(t.Context(), list[0].ID); err != nil {
			t.Error(err)
		}
	default:
		t.Errorf("machines %+v, VMMs %v", list, vmms)
	}
	hosttest.Await(t, 10*time.Second, "no VMM is left", func() error {
		if left := h.VMMs(); len(left) > 0 {
			return errors.New(left[0].String())
		}
		return nil
	})
	h.AssertNothingLeft()
}
