package httpapi

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// scripted is Machines whose commands are given by the test.
type scripted struct {
	Machines
	proc func(req machine.ExecRequest) machine.Process
}

func (s scripted) Exec(_ context.Context, _ machine.ID, req machine.ExecRequest) (machine.Process, error) {
	return s.proc(req), nil
}

// process is a command that prints what stdout gives and ends with status, or
// at a signal.
type process struct {
	stdout   io.Reader
	status   machine.ExitStatus
	once     sync.Once
	closed   chan struct{}
	signaled atomic.Int64
}

func newProcess(stdout io.Reader, status machine.ExitStatus) *process {
	return &process{stdout: stdout, status: status, closed: make(chan struct{})}
}

func (p *process) ID() string             { return "p1" }
func (p *process) Start() machine.Offsets { return machine.Offsets{} }
func (p *process) Stdin() io.WriteCloser  { return discardCloser{} }
func (p *process) Stderr() io.Reader      { return strings.NewReader("") }
func (p *process) Close() error           { p.once.Do(func() { close(p.closed) }); return nil }

func (p *process) Stdout() io.Reader {
	if p.stdout == nil {
		return waiting{p.closed}
	}
	return p.stdout
}

func (p *process) Signal(_ context.Context, sig int) error {
	p.signaled.Store(int64(sig))
	return nil
}

func (p *process) Wait(context.Context) (machine.ExitStatus, error) { return p.status, nil }

type discardCloser struct{}

func (discardCloser) Write(p []byte) (int, error) { return len(p), nil }
func (discardCloser) Close() error                { return nil }

// waiting blocks until its process is closed.
type waiting struct{ closed <-chan struct{} }

func (w waiting) Read([]byte) (int, error) {
	<-w.closed
	return 0, io.ErrClosedPipe
}

func withProcess(p *process) func(*Config) {
	return func(c *Config) {
		c.Machines = scripted{c.Machines, func(machine.ExecRequest) machine.Process { return p }}
	}
}

func TestExecTimeout(t *testing.T) {
	a := newAPI(t, withProcess(newProcess(strings.NewReader("half"), machine.ExitStatus{Code: -1, Signal: "SIGKILL", TimedOut: true})))
	_, err := a.Exec(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"sleep"}, Timeout: 2})
	e, ok := errors.AsType[*hyperfleet.Error](err)
	if !ok || !errors.Is(err, hyperfleet.ErrTimeout) || e.Message != "Command execution timed out after 2 seconds" || e.Code != "TIMEOUT_ERROR" {
		t.Error(err)
	}
}

func TestExecTimeoutIsShortened(t *testing.T) {
	var asked time.Duration
	a := newAPI(t, func(c *Config) {
		c.ExecMaxTimeout = time.Minute
		c.Machines = scripted{c.Machines, func(req machine.ExecRequest) machine.Process {
			asked = req.Timeout
			return newProcess(strings.NewReader(""), machine.ExitStatus{})
		}}
	})
	id := a.running().ID
	for given, want := range map[float64]time.Duration{0: 30 * time.Second, 5: 5 * time.Second, 120000: time.Minute, 1e300: time.Minute} {
		if _, err := a.Exec(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"x"}, Timeout: given}); err != nil || asked != want {
			t.Errorf("timeout %g: %v, %v; want %v", given, asked, err, want)
		}
	}
}

func TestExecKilledBySignal(t *testing.T) {
	a := newAPI(t, withProcess(newProcess(strings.NewReader(""), machine.ExitStatus{Code: -1, Signal: "SIGSEGV"})))
	res, err := a.Exec(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"x"}})
	if err != nil || res.ExitCode != -1 || res.Signal != "SIGSEGV" || res.ExecID != "p1" {
		t.Errorf("%+v, %v", res, err)
	}
}

// Large output arrives whole, by way of a file that nobody sees.
func TestExecLargeOutput(t *testing.T) {
	const size = 8 << 20
	spool := t.TempDir()
	a := newAPI(t, withProcess(newProcess(io.LimitReader(pattern{}, size), machine.ExitStatus{})), func(c *Config) { c.SpoolDir = spool })
	res, err := a.Exec(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"x"}})
	if err != nil || len(res.Stdout) != size || strings.Trim(res.Stdout, "ab\n") != "" {
		t.Errorf("%d bytes, %v", len(res.Stdout), err)
	}
	if left, _ := os.ReadDir(spool); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

type pattern struct{}

func (pattern) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "ab\n"[i%3]
	}
	return len(p), nil
}

func TestExecOutputLimit(t *testing.T) {
	p := newProcess(pattern{}, machine.ExitStatus{})
	a := newAPI(t, withProcess(p), func(c *Config) { c.ExecMaxOutput = 3 << 20 })
	_, err := a.Exec(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"yes"}})
	if e, ok := errors.AsType[*hyperfleet.Error](err); !ok || e.Code != "OUTPUT_TOO_LARGE" || p.signaled.Load() != sigKill {
		t.Errorf("%v, signal %d", err, p.signaled.Load())
	}
}

// A caller that goes away takes its command with it.
func TestExecCallerGone(t *testing.T) {
	p := newProcess(nil, machine.ExitStatus{})
	a := newAPI(t, withProcess(p))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	id := a.running().ID
	go func() {
		_, err := a.Exec(ctx, id, hyperfleet.ExecRequest{Command: []string{"sleep"}})
		done <- err
	}()
	await(t, "the command is held", func() bool {
		a.server.execs.mu.Lock()
		defer a.server.execs.mu.Unlock()
		return len(a.server.execs.plain) == 1
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-p.closed
	if p.signaled.Load() != sigKill {
		t.Errorf("signal %d", p.signaled.Load())
	}
}

// await waits for something that has no channel.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatalf("timed out: %s", what)
		case <-tick.C:
		}
	}
}
