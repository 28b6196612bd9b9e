// Package hosttest gives end-to-end tests and benchmarks a host: the product's
// built binaries, with a daemon, state and run directories of its own. Only
// tests and benchmarks import it. A Host is used by one test; its calls of the
// client may be concurrent.
package hosttest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
)

// binaries are the product's two, built once per test process, in a folder of
// the test cache, so that the next process finds what has not changed.
var binaries = sync.OnceValues(func() (string, error) {
	cache, err := kerneltest.CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range []string{"hyperfleet", "hyperfleet-init"} {
		cmd := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags", "-s -w",
			"-o", filepath.Join(dir, name), "github.com/hyperfleet/hyperfleet/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return dir, nil
})

// Host is one host with its own daemon, state and run directories.
type Host struct {
	*hyperfleet.Client

	Bin   string   // folder of the two binaries
	State string   // HYPERFLEET_STATE_DIR
	Run   string   // HYPERFLEET_RUN_DIR
	Env   []string // of the daemon and the CLI

	t      testing.TB
	log    *tail
	daemon *exec.Cmd
	exited chan error
}

// New makes a host and starts its daemon. When the test ends its machines
// are deleted, and nothing of them may be left.
func New(t testing.TB, env ...string) *Host {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "hf-") // short: it holds unix sockets
	if err != nil {
		t.Fatal(err)
	}
	h := &Host{t: t, Bin: bin, State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), log: &tail{}}
	h.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir,
		"HYPERFLEET_STATE_DIR=" + h.State, "HYPERFLEET_RUN_DIR=" + h.Run,
		"HYPERFLEET_HOST=unix://" + h.Run + "/api.sock",
		"HYPERFLEET_METRICS_LISTEN=unix://" + h.metricsSocket(),
		"PORT=" + strconv.Itoa(freePort(t)),
	}, env...)
	h.Client = &hyperfleet.Client{Host: "unix://" + h.Run + "/api.sock"}
	h.useTestKernel()
	t.Cleanup(func() {
		h.cleanUp()
		if t.Failed() {
			t.Logf("daemon's log:\n%s", h.log)
		}
		os.RemoveAll(dir)
	})
	h.StartDaemon()
	return h
}

// useTestKernel gives the host the kernel that all tests share.
func (h *Host) useTestKernel() {
	h.t.Helper()
	kerneltest.Boot(h.t)
	cache, err := kerneltest.CacheDir()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.MkdirAll(h.State, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(cache, "kernel"), filepath.Join(h.State, "kernel")); err != nil {
		h.t.Fatal(err)
	}
}

// StartDaemon starts the daemon and waits until it answers.
func (h *Host) StartDaemon() {
	h.t.Helper()
	h.daemon = exec.CommandContext(context.Background(), filepath.Join(h.Bin, "hyperfleet"), "serve")
	h.daemon.Env = h.Env
	h.daemon.Stdout, h.daemon.Stderr = h.log, h.log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	daemon, exited := h.daemon, make(chan error, 1)
	go func() { exited <- daemon.Wait() }()
	h.exited = exited
	Await(h.t, 30*time.Second, "the daemon answers", func() error {
		select {
		case err := <-exited:
			h.t.Fatalf("daemon ended: %v\n%s", err, h.log)
		default:
		}
		_, err := h.Health(context.Background()) // the test's own context has ended when it cleans up
		return err
	})
}

// StopDaemon ends the daemon in order; machines go on running.
func (h *Host) StopDaemon() { h.endDaemon(syscall.SIGTERM) }

// KillDaemon ends the daemon as a crash does.
func (h *Host) KillDaemon() { h.endDaemon(syscall.SIGKILL) }

func (h *Host) endDaemon(sig os.Signal) {
	h.t.Helper()
	if h.daemon == nil {
		return
	}
	if err := h.daemon.Process.Signal(sig); err != nil {
		h.t.Fatalf("signal daemon: %v", err)
	}
	select {
	case <-h.exited:
	case <-time.After(60 * time.Second):
		_ = h.daemon.Process.Kill()
		h.t.Fatalf("daemon did not end within a minute of %v", sig)
	}
	h.daemon = nil
	h.CloseIdleConnections()
}

// cleanUp deletes every machine, ends the daemon and fails the test when
// anything of a machine is left.
func (h *Host) cleanUp() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if h.daemon == nil {
		h.StartDaemon()
	}
	list, err := h.ListMachines(ctx, hyperfleet.ListOptions{})
	if err != nil {
		h.t.Errorf("list machines: %v", err)
	}
	for _, m := range list {
		if err := h.DeleteMachine(ctx, m.ID); err != nil {
			h.t.Errorf("delete machine %s: %v", m.ID, err)
		}
	}
	h.AssertNothingLeft()
	h.StopDaemon()
}

// AssertNothingLeft fails the test when a process, socket or file of a machine
// is left although no machine is.
func (h *Host) AssertNothingLeft() {
	h.t.Helper()
	for _, dir := range []string{filepath.Join(h.State, "machines"), filepath.Join(h.Run, "machines")} {
		left, _ := filepath.Glob(dir + "/*")
		if left = slices.DeleteFunc(left, h.isLog); len(left) > 0 {
			h.t.Errorf("left in %s: %v", dir, left)
		}
	}
	for _, p := range h.VMMs() {
		h.t.Errorf("left running: %s", p)
		_ = syscall.Kill(p.PID, syscall.SIGKILL)
	}
}

// isLog reports whether dir holds no more than the log of a machine that is
// still known: one that has failed keeps it.
func (h *Host) isLog(dir string) bool {
	files, err := os.ReadDir(dir)
	if err != nil || h.daemon == nil || slices.ContainsFunc(files, func(f os.DirEntry) bool { return f.Name() != "log" && f.Name() != "log.1" }) {
		return false
	}
	_, err = h.Machine(context.Background(), filepath.Base(dir)) // the test's own context may have ended
	return err == nil
}

// VMM is a process that runs a machine.
type VMM struct {
	PID     int
	Cmdline string
}

// String shortens the command line.
func (v VMM) String() string { return fmt.Sprintf("pid %d: %.120s", v.PID, v.Cmdline) }

// VMMs lists the VMMs of this host: those whose open files lie in its folders.
func (h *Host) VMMs() []VMM {
	var found []VMM
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range pids {
		exe, err := os.Readlink(p + "/exe")
		if err != nil || !strings.Contains(filepath.Base(exe), "qemu-system") {
			continue
		}
		fds, _ := filepath.Glob(p + "/fd/*")
		if slices.ContainsFunc(fds, func(fd string) bool {
			target, _ := os.Readlink(fd)
			return strings.HasPrefix(target, h.State+"/machines/")
		}) {
			pid, _ := strconv.Atoi(filepath.Base(p))
			cmdline, _ := os.ReadFile(p + "/cmdline")
			found = append(found, VMM{pid, string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '}))})
		}
	}
	return found
}

// Create makes a machine of an image, with changes to the request.
func (h *Host) Create(name, image string, change ...func(*hyperfleet.CreateMachineRequest)) hyperfleet.Machine {
	h.t.Helper()
	req := hyperfleet.CreateMachineRequest{Name: name, VCPUCount: 1, MemSizeMiB: 128, Image: image}
	for _, c := range change {
		c(&req)
	}
	m, err := h.CreateMachine(h.t.Context(), req)
	if err != nil {
		h.t.Fatalf("create %s: %v", name, err)
	}
	return m
}

// Start makes a machine and starts it.
func (h *Host) Start(name, image string, change ...func(*hyperfleet.CreateMachineRequest)) hyperfleet.Machine {
	h.t.Helper()
	m, err := h.StartMachine(h.t.Context(), h.Create(name, image, change...).ID)
	if err != nil {
		h.t.Fatalf("start %s: %v", name, err)
	}
	if m.Status != hyperfleet.StatusRunning {
		h.t.Fatalf("started %s is %s", name, m.Status)
	}
	return m
}

// Output runs a command and returns what it wrote to its standard output; a
// command that fails fails the test.
func (h *Host) Output(m hyperfleet.Machine, argv ...string) string {
	h.t.Helper()
	res := h.Result(m, argv...)
	if res.ExitCode != 0 {
		h.t.Fatalf("%q in %s: exit code %d, stdout %q, stderr %q", argv, m.Name, res.ExitCode, res.Stdout, res.Stderr)
	}
	return res.Stdout
}

// Result runs a command, whatever its exit code.
func (h *Host) Result(m hyperfleet.Machine, argv ...string) hyperfleet.ExecResult {
	h.t.Helper()
	res, err := h.Exec(h.t.Context(), m.ID, hyperfleet.ExecRequest{Command: argv, Timeout: 120})
	if err != nil {
		h.t.Fatalf("%q in %s: %v", argv, m.Name, err)
	}
	return res
}

// CLI runs the command-line client against this host's daemon.
func (h *Host) CLI(args ...string) (stdout, stderr string, code int) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), filepath.Join(h.Bin, "hyperfleet"), args...)
	cmd.Env = h.Env
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out.String(), errOut.String(), exit.ExitCode()
	}
	if err != nil {
		h.t.Fatalf("hyperfleet %q: %v", args, err)
	}
	return out.String(), errOut.String(), 0
}

// DaemonRSS is the daemon's peak resident memory in bytes since the last reset.
func (h *Host) DaemonRSS() int64 {
	h.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.daemon.Process.Pid))
	if err != nil {
		h.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				h.t.Fatal(err)
			}
			return kib << 10
		}
	}
	h.t.Fatal("no VmHWM in /proc/PID/status")
	return 0
}

// ResetRSS makes DaemonRSS count from now; "5" resets the peak, see proc(5).
func (h *Host) ResetRSS() {
	h.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", h.daemon.Process.Pid), []byte("5"), 0); err != nil {
		h.t.Fatal(err)
	}
}

// URL is the daemon's API over TCP.
func (h *Host) URL() string {
	h.t.Helper()
	for _, kv := range slices.Backward(h.Env) {
		if port, ok := strings.CutPrefix(kv, "PORT="); ok {
			return "http://127.0.0.1:" + port
		}
	}
	h.t.Fatal("the daemon has no port")
	return ""
}

// Key makes an API key with every scope and returns its secret.
func (h *Host) Key() string {
	h.t.Helper()
	k, err := h.CreateKey(h.t.Context(), hyperfleet.CreateKeyRequest{Name: "test"})
	if err != nil {
		h.t.Fatalf("create a key: %v", err)
	}
	return k.Secret
}

// Metric is one of the daemon's metrics without labels, now.
func (h *Host) Metric(name string) float64 {
	h.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.metricsSocket())
		},
	}}
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				h.t.Fatalf("metric %s: %v", name, err)
			}
			return v
		}
	}
	h.t.Fatalf("no metric %s", name)
	return 0
}

func (h *Host) metricsSocket() string { return filepath.Join(filepath.Dir(h.Run), "metrics.sock") }

// Log is what the daemons of this host have logged, its last 4 MiB.
func (h *Host) Log() string { return h.log.String() }

// DaemonPID is the daemon's process.
func (h *Host) DaemonPID() int { return h.daemon.Process.Pid }

// Await tries cond until it succeeds, and fails the test with its last error
// when the time is over.
func Await(t testing.TB, limit time.Duration, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-tick.C
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// tail keeps the end of a log.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 20

func (l *tail) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = append(l.buf, p...)
	if over := len(l.buf) - tailBytes; over > 0 {
		l.buf = slices.Delete(l.buf, 0, over)
	}
	return len(p), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.buf)
}
