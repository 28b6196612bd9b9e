package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestStreamStdin(t *testing.T) {
	a := newAPI(t)
	var out bytes.Buffer
	res, err := a.ExecStream(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"cat"}},
		hyperfleet.ExecIO{Stdin: strings.NewReader("through"), Stdout: &out})
	if err != nil || res.ExitCode != 0 || out.String() != "through" {
		t.Errorf("%+v, %q, %v", res, out.String(), err)
	}
}

// A stream takes its connection over below TLS as well.
func TestStreamOverTLS(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	ts := httptest.NewUnstartedServer(a.server.TrustedHandler())
	ts.EnableHTTP2 = true
	ts.StartTLS()
	defer ts.Close()
	trust := x509.NewCertPool()
	trust.AddCert(ts.Certificate())
	c := &hyperfleet.Client{Host: ts.URL, TLS: &tls.Config{RootCAs: trust}}
	defer c.CloseIdleConnections()
	var out bytes.Buffer
	res, err := c.ExecStream(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"cat"}},
		hyperfleet.ExecIO{Stdin: strings.NewReader("through"), Stdout: &out})
	if err != nil || res.ExitCode != 0 || out.String() != "through" {
		t.Errorf("%+v, %q, %v", res, out.String(), err)
	}
}

func TestStreamExitCode(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	res, err := a.ExecStream(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"exit", "9"}, ExecID: "mine"}, hyperfleet.ExecIO{})
	if err != nil || res.ExitCode != 9 || res.ExecID != "mine" {
		t.Errorf("%+v, %v", res, err)
	}
	st, err := a.ExecStatus(t.Context(), id, "mine")
	if err != nil || st.Running || st.ExitCode == nil || *st.ExitCode != 9 {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestStreamSignal(t *testing.T) {
	a := newAPI(t)
	signals := make(chan string, 2)
	signals <- "SIGTERM"
	res, err := a.ExecStream(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"sleep"}}, hyperfleet.ExecIO{Signals: signals})
	if err != nil || res.Signal != "SIGTERM" || res.ExitCode != -1 {
		t.Errorf("%+v, %v", res, err)
	}
}

// When the caller's context ends the command is killed.
func TestStreamCancel(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := a.ExecStream(ctx, id, hyperfleet.ExecRequest{Command: []string{"sleep"}, ExecID: "s"}, hyperfleet.ExecIO{})
		done <- err
	}()
	await(t, "the command runs", func() bool { return a.holds(id, "s") })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	await(t, "the command is dead", func() bool {
		st, err := a.ExecStatus(t.Context(), id, "s")
		return err == nil && !st.Running && st.Signal == "SIGKILL"
	})
}

// holds reports whether a session of the server holds the command.
func (a *api) holds(id, execID string) bool {
	a.server.execs.mu.Lock()
	defer a.server.execs.mu.Unlock()
	return a.server.execs.held[execKey{machine.ID(id), execID}] != nil
}

func TestStreamDetach(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	detach := make(chan struct{})
	close(detach)
	_, err := a.ExecStream(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"sleep"}, ExecID: "d"}, hyperfleet.ExecIO{Detach: detach})
	if !errors.Is(err, hyperfleet.ErrDetached) {
		t.Fatal(err)
	}
	if st, err := a.ExecStatus(t.Context(), id, "d"); err != nil || !st.Running {
		t.Errorf("status %+v, %v", st, err)
	}
	signals := make(chan string, 1)
	signals <- "INT"
	res, err := a.AttachExec(t.Context(), id, "d", hyperfleet.ExecOffsets{}, hyperfleet.ExecIO{Signals: signals})
	if err != nil || res.Signal != "SIGINT" {
		t.Errorf("%+v, %v", res, err)
	}
}

// A command that an earlier daemon started is known after all.
func TestExecStatusOfUnknown(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	if _, err := a.Exec(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"exit", "4"}, ExecID: "old"}); err != nil {
		t.Fatal(err)
	}
	a.server.execs.mu.Lock()
	clear(a.server.execs.ended)
	a.server.execs.mu.Unlock()
	st, err := a.ExecStatus(t.Context(), id, "old")
	if err != nil || st.Running || st.ExitCode == nil || *st.ExitCode != 4 {
		t.Errorf("%+v, %v", st, err)
	}
}

// The guest keeps a command for its client for a while, and then it is killed.
func TestStreamGrace(t *testing.T) {
	a := newAPI(t, func(c *Config) { c.ExecGrace = 20 * time.Millisecond })
	id := a.running().ID
	conn := a.upgrade(id, `{"command":["sleep"],"exec_id":"g"}`)
	conn.Close()
	await(t, "the command is killed", func() bool {
		st, err := a.ExecStatus(t.Context(), id, "g")
		return err == nil && st.Signal == "SIGKILL"
	})
}

// upgrade makes a streamed exec by hand.
func (a *api) upgrade(id, body string) net.Conn {
	a.t.Helper()
	conn, err := net.Dial("tcp", a.http.Listener.Addr().String())
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), "POST", a.http.URL+"/machines/"+id+"/exec", strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", hyperfleet.ExecProtocol)
	if err := req.Write(conn); err != nil {
		a.t.Fatal(err)
	}
	head := make([]byte, 12)
	if _, err := io.ReadFull(conn, head); err != nil || !strings.HasSuffix(string(head), "101") {
		a.t.Fatalf("%q, %v", head, err)
	}
	return conn
}

// A client that breaks the protocol is cut off; its command is then an orphan.
func TestHostileFrames(t *testing.T) {
	a := newAPI(t, func(c *Config) { c.ExecGrace = time.Millisecond })
	id := a.running().ID
	for name, frames := range map[string][]byte{
		"huge":      {byte(hyperfleet.FrameStdin), 0xff, 0xff, 0xff, 0xff},
		"unknown":   {99, 0, 0, 0, 0},
		"signal":    {byte(hyperfleet.FrameSignal), 0, 0, 0, 3, 'B', 'A', 'D'},
		"ack":       append([]byte{byte(hyperfleet.FrameAck), 0, 0, 0, 26}, `{"stdout":999,"stderr":999}`...),
		"not json":  {byte(hyperfleet.FrameAck), 0, 0, 0, 1, '{'},
		"truncated": {byte(hyperfleet.FrameStdin), 0, 0, 0, 9, 'x'},
	} {
		conn := a.upgrade(id, `{"command":["sleep"],"attach_stdin":true,"exec_id":"h-`+name[:3]+`"}`)
		if _, err := conn.Write(frames); err != nil {
			t.Fatal(err)
		}
		if name == "truncated" {
			conn.Close()
		}
		await(t, name+" is killed", func() bool {
			st, err := a.ExecStatus(t.Context(), id, "h-"+name[:3])
			return err == nil && st.Signal == "SIGKILL"
		})
		conn.Close()
	}
}

// cutter is a proxy that breaks each connection after some bytes.
type cutter struct {
	net.Listener
	target string
	after  int64
	cuts   atomic.Int64
	wg     sync.WaitGroup
}

func newCutter(t *testing.T, target string, after int64) *cutter {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, target: target, after: after}
	c.wg.Go(c.run)
	t.Cleanup(func() { l.Close(); c.wg.Wait() })
	return c
}

func (c *cutter) run() {
	for {
		client, err := c.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.target)
		if err != nil {
			client.Close()
			continue
		}
		c.wg.Go(func() { _, _ = io.Copy(server, client); server.Close(); client.Close() })
		c.wg.Go(func() {
			if n, _ := io.CopyN(client, server, c.after); n == c.after {
				c.cuts.Add(1)
			}
			server.Close()
			client.Close()
		})
	}
}

// Input and output are whole, however often the connection breaks.
func TestStreamSurvivesCuts(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	input := make([]byte, 1<<20)
	_, _ = io.ReadFull(pattern{}, input)
	for i := 0; i < len(input); i += 7 {
		input[i] = byte(i)
	}
	for _, after := range []int64{70_000, 200_001} {
		cut := newCutter(t, a.http.Listener.Addr().String(), after)
		c := &hyperfleet.Client{Host: "http://" + cut.Addr().String()}
		var out bytes.Buffer
		res, err := c.ExecStream(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"cat"}},
			hyperfleet.ExecIO{Stdin: bytes.NewReader(input), Stdout: &out})
		c.CloseIdleConnections()
		if err != nil || res.ExitCode != 0 || !bytes.Equal(out.Bytes(), input) {
			t.Errorf("cut after %d: %+v, %d bytes of %d, %v", after, res, out.Len(), len(input), err)
		}
		if cut.cuts.Load() < 3 {
			t.Errorf("only %d cuts", cut.cuts.Load())
		}
	}
}

// A server that goes down leaves the command, and says so to nobody new.
func TestCloseLeavesCommands(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	conn := a.upgrade(id, `{"command":["sleep"],"exec_id":"c"}`)
	defer conn.Close()
	a.server.Close()
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, io.EOF) {
		t.Logf("connection: %v", err) // it is ended, in whatever way
	}
	_, err := a.ExecStatus(t.Context(), id, "c")
	if !errors.Is(err, hyperfleet.ErrUnavailable) {
		t.Errorf("status while closing: %v", err)
	}
	p, err := a.server.cfg.Machines.AttachExec(t.Context(), machine.ID(id), "c", machine.Offsets{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("the command ended with the server: %v", err)
	}
}

func TestAttachToBuffered(t *testing.T) {
	p := newProcess(nil, machine.ExitStatus{})
	a := newAPI(t, withProcess(p))
	id := a.running().ID
	forget := a.server.execs.buffered(execKey{machine.ID(id), "b"})
	defer forget(machine.ExitStatus{}, nil)
	_, err := a.AttachExec(t.Context(), id, "b", hyperfleet.ExecOffsets{}, hyperfleet.ExecIO{})
	if !errors.Is(err, hyperfleet.ErrConflict) {
		t.Error(err)
	}
}

func TestExecsForgetTheOldest(t *testing.T) {
	e := newExecs(nil, time.Second)
	defer e.close()
	for i := range execsKept + 10 {
		e.buffered(execKey{"m", string(rune('a' + i))})(machine.ExitStatus{}, nil)
	}
	if len(e.ended) != execsKept || len(e.order) != execsKept {
		t.Errorf("%d ended, %d in order", len(e.ended), len(e.order))
	}
	e.buffered(execKey{"m", "z"})(machine.ExitStatus{}, errdefs.New(errdefs.Guest, "X", "x"))
	if _, known := e.known(execKey{"m", "never"}); known {
		t.Error("an unknown command is known")
	}
}

// A connection that breaks while it is taken over costs the command nothing:
// its client has the grace to come back.
func TestBrokenTakeOverKeepsTheCommand(t *testing.T) {
	a := newAPI(t)
	proc := newProcess(nil, machine.ExitStatus{})
	ours, theirs := net.Pipe()
	theirs.Close()
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
	a.server.takeOver(t.Context(), "m", proc, func() {}).Body(humago.NewContext(&huma.Operation{}, r, hijackable{httptest.NewRecorder(), ours}))
	if !a.holds("m", "p1") || proc.signaled.Load() != 0 {
		t.Errorf("held %v, signal %d", a.holds("m", "p1"), proc.signaled.Load())
	}
}

// hijackable is an answer on the given connection.
type hijackable struct {
	http.ResponseWriter
	conn net.Conn
}

func (h hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// Two that attach at the same moment: one session is left.
func TestLaterSessionStays(t *testing.T) {
	a := newAPI(t)
	key := execKey{"m", "p1"}
	first := newSession(newProcess(nil, machine.ExitStatus{}), nil, a.server.cfg.Log)
	second := newSession(newProcess(nil, machine.ExitStatus{}), nil, a.server.cfg.Log)
	for _, s := range []*session{first, second} {
		if err := a.server.execs.run(key, s); err != nil {
			t.Fatal(err)
		}
	}
	<-first.done
	if !a.holds("m", "p1") {
		t.Error("the end of the first session dropped the second")
	}
}
