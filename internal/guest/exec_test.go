package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guest/guesttest"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// finish reads both outputs to their ends and waits.
func finish(t *testing.T, p machine.Process) (stdout, stderr []byte, st machine.ExitStatus) {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		if stderr, err = io.ReadAll(p.Stderr()); err != nil {
			t.Errorf("stderr: %v", err)
		}
	})
	stdout, err := io.ReadAll(p.Stdout())
	if err != nil {
		t.Errorf("stdout after %d bytes: %v", len(stdout), err)
	}
	wg.Wait()
	st, err = p.Wait(t.Context())
	if err != nil {
		t.Errorf("wait: %v", err)
	}
	return stdout, stderr, st
}

func TestExec(t *testing.T) {
	g, s := start(t)
	g.Handle("both", func(_ context.Context, c *guesttest.Cmd) int {
		fmt.Fprint(c.Stdout, "out ", c.Argv[1], c.Env)
		fmt.Fprint(c.Stderr, "err")
		return 7
	})
	odd := "a\x1b[1m\r\"\\\u2028\xff\xfe"
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"both", odd}, Env: []string{"K=\xf0v"}})
	out, errOut, st := finish(t, p)
	if string(out) != "out "+odd+"[K=\xf0v]" || string(errOut) != "err" || st.Code != 7 {
		t.Errorf("got %q, %q, %+v", out, errOut, st)
	}
	if p.ID() != "a" || p.Start() != (machine.Offsets{}) {
		t.Errorf("id %s, start %+v", p.ID(), p.Start())
	}
	if _, err := p.Stdin().Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write to a command without input: %v", err)
	}
	p.Close()
	p.Close()
	await(t, "release", func() bool { return g.Execs() == 0 })
	_, err := s.Attach(t.Context(), "a", machine.Offsets{})
	requireKind(t, err, errdefs.NotFound, guestproto.CodeExecNotFound)
}

func TestExecErrors(t *testing.T) {
	_, s := start(t)
	_, err := s.Exec(t.Context(), machine.ExecRequest{ID: "a/b", Argv: []string{"true"}})
	requireKind(t, err, errdefs.Invalid, guestproto.CodeBadRequest)
	_, err = s.Exec(t.Context(), machine.ExecRequest{ID: "a"})
	requireKind(t, err, errdefs.Invalid, guestproto.CodeBadRequest)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"nothing"}})
	if _, _, st := finish(t, p); st.Code != 127 {
		t.Errorf("program that is not there: %+v", st)
	}
	_, err = s.Exec(t.Context(), machine.ExecRequest{ID: "a", Argv: []string{"true"}})
	requireKind(t, err, errdefs.Conflict, guestproto.CodeExecExists)
	_, err = s.Attach(t.Context(), "b", machine.Offsets{})
	requireKind(t, err, errdefs.NotFound, guestproto.CodeExecNotFound)
	_, err = s.Attach(t.Context(), "a", machine.Offsets{Stdout: 5})
	requireKind(t, err, errdefs.Invalid, "EXEC_OFFSET")
	requireKind(t, p.Signal(t.Context(), 0), errdefs.Invalid, guestproto.CodeBadRequest)
}

func TestSignalAndTimeout(t *testing.T) {
	_, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	if err := p.Signal(t.Context(), 9); err != nil {
		t.Fatal(err)
	}
	if _, _, st := finish(t, p); st.Code != -1 || st.Signal != "SIGKILL" {
		t.Errorf("%+v", st)
	}
	p = mustExec(t, s, machine.ExecRequest{ID: "b", Argv: []string{"cat"}, Stdin: true, Timeout: time.Microsecond})
	if _, _, st := finish(t, p); st.Code != -1 {
		t.Errorf("%+v", st)
	}
}

// pattern is n bytes that repeat with no power of two.
func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz-"), n/37+1)[:n]
}

// Input goes through the command and comes back whole, while the connection
// breaks again and again at random points.
func TestExecSurvivesBreaks(t *testing.T) {
	g, s := start(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	breaks := 0
	wg.Go(func() {
		rng := rand.New(rand.NewPCG(5, 6))
		for {
			if err := s.Ready(t.Context()); err != nil {
				t.Error(err)
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rng.IntN(30)) * time.Millisecond):
				g.Break()
				breaks++
			}
		}
	})
	const size = 2 << 20
	want := pattern(size)
	var execs sync.WaitGroup
	for i := range 4 {
		execs.Go(func() {
			p := mustExec(t, s, machine.ExecRequest{ID: fmt.Sprint("x", i), Argv: []string{"cat"}, Stdin: true})
			execs.Go(func() {
				if n, err := p.Stdin().Write(want); err != nil {
					t.Errorf("write after %d bytes: %v", n, err)
				}
				p.Stdin().Close()
			})
			got, _, st := finish(t, p)
			if !bytes.Equal(got, want) || st.Code != 0 {
				t.Errorf("%d of %d bytes, equal %v, %+v", len(got), len(want), bytes.Equal(got, want), st)
			}
		})
	}
	execs.Wait()
	close(stop)
	wg.Wait()
	if breaks < 3 {
		t.Errorf("only %d breaks", breaks)
	}
}

// cutConn breaks after a number of bytes read.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		c.Close()
		return 0, net.ErrClosed
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// A command runs exactly once, wherever the connection breaks while it is
// started.
func TestExecRunsOnce(t *testing.T) {
	for cut := 90; cut < 700; cut += 7 {
		g := guesttest.New(context.Background())
		runs := 0
		g.Handle("once", func(context.Context, *guesttest.Cmd) int { runs++; return 3 })
		first := true
		g.Wrap(func(nc net.Conn) net.Conn {
			if first {
				first = false
				return &cutConn{nc, cut}
			}
			return nc
		})
		s := openSession(t, g)
		p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"once"}})
		if _, _, st := finish(t, p); st.Code != 3 || runs != 1 {
			t.Errorf("cut after %d bytes: %d runs, %+v", cut, runs, st)
		}
		p.Close()
		s.Close()
		g.Close()
	}
}

// A new daemon goes on where the old one stopped.
func TestAttachFromNewSession(t *testing.T) {
	g, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	io.WriteString(p.Stdin(), "hello ")
	b := make([]byte, 6)
	if _, err := io.ReadFull(p.Stdout(), b); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := p.Wait(t.Context()); err == nil {
		t.Error("wait of a closed session")
	}
	s = openSession(t, g)
	p, err := s.Attach(t.Context(), "a", machine.Offsets{Stdout: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Start() != (machine.Offsets{Stdout: 4, Stdin: 6}) {
		t.Errorf("start %+v", p.Start())
	}
	io.WriteString(p.Stdin(), "world")
	p.Stdin().Close()
	out, _, st := finish(t, p)
	if string(out) != "o world" || st.Code != 0 {
		t.Errorf("got %q, %+v", out, st)
	}
	// Its end is kept until it is released: attach once more.
	again, err := s.Attach(t.Context(), "a", machine.Offsets{Stdout: 11})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if out, _, st := finish(t, again); len(out) != 0 || st.Code != 0 {
		t.Errorf("got %q, %+v", out, st)
	}
}

func TestAttachTakesOver(t *testing.T) {
	_, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	q, err := s.Attach(t.Context(), "a", machine.Offsets{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	_, err = p.Wait(t.Context())
	requireKind(t, err, errdefs.Conflict, guestproto.CodeExecTaken)
	_, err = p.Stdout().Read(make([]byte, 1))
	requireKind(t, err, errdefs.Conflict, guestproto.CodeExecTaken)
	io.WriteString(q.Stdin(), "hi")
	q.Stdin().Close()
	if out, _, _ := finish(t, q); string(out) != "hi" {
		t.Errorf("got %q", out)
	}
}

// A process that is closed early goes on in the guest.
func TestCloseLetsGo(t *testing.T) {
	g, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	read := make(chan error, 1)
	go func() { _, err := p.Stdout().Read(make([]byte, 1)); read <- err }()
	p.Close()
	requireKind(t, <-read, errdefs.Unavailable, guestproto.CodeCanceled)
	_, err := p.Wait(t.Context())
	requireKind(t, err, errdefs.Unavailable, guestproto.CodeCanceled)
	if g.Execs() != 1 {
		t.Errorf("%d commands in the guest", g.Execs())
	}
	q, err := s.Attach(t.Context(), "a", machine.Offsets{})
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	q.Stdin().Close()
	finish(t, q)
}

// A command whose output nobody reads holds up its writer, and no one else.
func TestUnreadOutputHoldsTheCommand(t *testing.T) {
	g, s := start(t)
	var written int
	g.Handle("yes", func(_ context.Context, c *guesttest.Cmd) int {
		written, _ = c.Stdout.Write(make([]byte, 4<<20))
		return 0
	})
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"yes"}})
	for i := range 20 {
		q := mustExec(t, s, machine.ExecRequest{ID: fmt.Sprint("q", i), Argv: []string{"true"}})
		finish(t, q)
		q.Close()
	}
	select {
	case <-p.(*process).done:
		t.Fatal("4 MiB fit into the windows")
	default:
	}
	if out, _, _ := finish(t, p); len(out) != 4<<20 || written != 4<<20 {
		t.Errorf("%d bytes", len(out))
	}
}

func TestManyConcurrentExecs(t *testing.T) {
	g, s := start(t)
	g.Handle("exit", func(_ context.Context, c *guesttest.Cmd) int {
		var n int
		fmt.Sscan(c.Argv[1], &n)
		return n
	})
	var wg sync.WaitGroup
	for i := range 1000 {
		wg.Go(func() {
			p, err := s.Exec(t.Context(), machine.ExecRequest{ID: fmt.Sprint("e", i), Argv: []string{"exit", fmt.Sprint(i % 256)}})
			if err != nil {
				t.Error(err)
				return
			}
			defer p.Close()
			io.Copy(io.Discard, p.Stdout())
			io.Copy(io.Discard, p.Stderr())
			if st, err := p.Wait(t.Context()); err != nil || st.Code != i%256 {
				t.Errorf("exec %d: %+v, %v", i, st, err)
			}
		})
	}
	wg.Wait()
	await(t, "release of all", func() bool { return g.Execs() == 0 })
}

// A caller that gives up on a start leaves no command behind.
func TestCanceledStartIsAbandoned(t *testing.T) {
	g, s := start(t)
	started := make(chan struct{})
	g.Handle("slow", func(ctx context.Context, _ *guesttest.Cmd) int { close(started); <-ctx.Done(); return 0 })
	g.DelayStart(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	_, err := s.Exec(ctx, machine.ExecRequest{ID: "a", Argv: []string{"slow"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("exec: %v", err)
	}
	await(t, "end of the command", func() bool { return g.Execs() == 0 })
}

// A command that is given up may have ended already, or never have begun: no
// reason to warn.
func TestAbandonOfWhatDoesNotRun(t *testing.T) {
	g := guesttest.New(context.Background())
	t.Cleanup(g.Close)
	var log bytes.Buffer // read once the session is closed
	session := openSessionLogged(t, g, &log).(*Session)
	g.Handle("true", func(context.Context, *guesttest.Cmd) int { return 0 })
	at, err := session.begin(t.Context(), &guestproto.ExecStart{ID: "a", Argv: guestproto.Texts([]string{"true"})})
	if err != nil {
		t.Fatal(err)
	}
	defer at.stream.Close()
	var exit guestproto.ExecExit
	if err := at.stream.Result(t.Context(), &exit); err != nil {
		t.Fatal(err)
	}
	session.abandon("a")
	session.abandon("never-begun")
	await(t, "release of the command", func() bool { return g.Execs() == 0 })
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "level=WARN") {
		t.Errorf("the log says %s", log.String())
	}
}
