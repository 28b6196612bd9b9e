package agent_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guest"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const limit = time.Minute

// pair is an agent and the host's session with it.
type pair struct {
	machine.Guest
	t      testing.TB
	engine *command.Engine
	agent  *initd.Agent

	setup    func(guestproto.Boot) error
	shutdown chan time.Duration
	rebooted chan struct{}
	clock    chan time.Time

	mu    sync.Mutex
	conns []net.Conn // the host's ends, newest last
	next  int
}

// newPair joins both sides; all has ended when the test has.
func newPair(t testing.TB) *pair {
	return newPairWith(t, func(guestproto.Boot) error { return nil })
}

func newPairWith(t testing.TB, setup func(guestproto.Boot) error) *pair {
	t.Helper()
	p := &pair{
		t: t, setup: setup, shutdown: make(chan time.Duration, 1),
		rebooted: make(chan struct{}), clock: make(chan time.Time, 64),
	}
	p.engine = command.NewEngine(command.Config{Reaper: reaper, Memory: 64 << 20})
	p.agent = initd.NewAgent(initd.AgentConfig{
		Version: "test", Log: log.New(t.Output(), "init: ", 0),
		Setup:    p.setUp,
		SetClock: func(now time.Time) error { p.clock <- now; return nil },
		Shutdown: func(grace time.Duration) error { p.shutdown <- grace; p.engine.Close(); return nil },
		Reboot:   func() { close(p.rebooted) },
	})
	path := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.agent.Serve(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		})
	}()
	p.open(l)
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		l.Close()
		<-served
		p.engine.Wait()
	})
	return p
}

func (p *pair) setUp(b guestproto.Boot) (*command.Engine, error) {
	if err := p.setup(b); err != nil {
		return nil, err
	}
	return p.engine, nil
}

func (p *pair) open(l net.Listener) {
	logger := slog.New(slog.NewTextHandler(p.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	boot := machine.BootConfig{
		Hostname: "test", Env: []string{"PATH=/usr/bin:/bin", "GREETING=hello"},
		User: fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
	}
	p.Guest = guest.New(context.Background(), logger).Open("test", boot, func(ctx context.Context) (net.Conn, error) {
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		nc, err := l.Accept()
		if err == nil {
			p.mu.Lock()
			p.conns = append(p.conns, nc)
			p.mu.Unlock()
		}
		return nc, err
	}, nil)
}

// breakSession cuts the newest connection.
func (p *pair) breakSession() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.conns); n > 0 {
		p.conns[n-1].Close()
	}
}

func (p *pair) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	p.t.Cleanup(cancel)
	return ctx
}

func (p *pair) id() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	return fmt.Sprintf("t%d", p.next)
}

func (p *pair) exec(req machine.ExecRequest) machine.Process {
	p.t.Helper()
	if req.ID == "" {
		req.ID = p.id()
	}
	proc, err := p.Exec(p.ctx(), req)
	if err != nil {
		p.t.Fatalf("exec %q: %v", req.Argv, err)
	}
	return proc
}

// run runs a command to its end. It may be called from any goroutine.
func (p *pair) run(req machine.ExecRequest) (stdout, stderr []byte, status machine.ExitStatus, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	req.ID = p.id()
	proc, err := p.Exec(ctx, req)
	if err != nil {
		return nil, nil, status, err
	}
	defer func() { err = errors.Join(err, proc.Close()) }()
	errs := make(chan error, 1)
	var serr bytes.Buffer
	go func() { _, err := serr.ReadFrom(proc.Stderr()); errs <- err }()
	stdout, err = io.ReadAll(proc.Stdout())
	err = errors.Join(err, <-errs)
	if err != nil {
		return stdout, serr.Bytes(), status, err
	}
	status, err = proc.Wait(ctx)
	return stdout, serr.Bytes(), status, err
}

func (p *pair) mustRun(argv ...string) (string, machine.ExitStatus) {
	p.t.Helper()
	out, _, status, err := p.run(machine.ExecRequest{Argv: argv})
	if err != nil {
		p.t.Fatalf("run %q: %v", argv, err)
	}
	return string(out), status
}
