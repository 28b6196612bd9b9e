package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
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

func TestStreamStdin(t *testing.T) {
	a := newAPI(t)
	var out bytes.Buffer
	res, err := a.ExecStream(t.Context(), a.running().ID, hyperfleet.ExecRequest{Command: []string{"cat"}},
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

func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 4, 0, 0, 0, 0})
	f.Add([]byte{1, 0xff, 0, 0, 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		var again bytes.Buffer
		for {
			typ, payload, err := hyperfleet.ReadFrame(r, nil)
			if err != nil {
				break
			}
			if err := hyperfleet.WriteFrame(&again, typ, payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(raw, again.Bytes()) {
			t.Fatalf("%x was read as %x", raw, again.Bytes())
		}
	})
}

func FuzzJSONString(f *testing.F) {
	f.Add([]byte("plain \" \\ \x00\x7f\n\t\xff\xe2\x82"))
	f.Add([]byte("\u2028\U0001f600"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var out bytes.Buffer
		if err := writeJSONString(&out, &drops{raw}); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%q: %v", out.Bytes(), err)
		}
		if want := strings.ToValidUTF8(string(raw), "\ufffd"); strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("%q became %q", raw, got)
		}
		out.Reset()
		if err := writeJSONBase64(&out, &drops{raw}); err != nil {
			t.Fatal(err)
		}
		var bin []byte
		if err := json.Unmarshal(out.Bytes(), &bin); err != nil || !bytes.Equal(bin, raw) {
			t.Fatalf("%q: %x, %v", out.Bytes(), bin, err)
		}
	})
}

// drops gives its bytes one by one.
type drops struct{ rest []byte }

func (d *drops) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	p[0], d.rest = d.rest[0], d.rest[1:]
	return 1, nil
}

// What our parser takes, encoding/json takes too, with the same result.
func FuzzFileUpload(f *testing.F) {
	f.Add([]byte(`{"path":"/f","content":"aGk=","mode":"644","x":[{"y":"}"},1.5e3,null]}`))
	f.Add([]byte(`{"content":"a\/\u0047k=" , "path":"/\u00e4"}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"path":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var content bytes.Buffer
		up, err := parseFileUpload(bytes.NewReader(raw), &content)
		if err != nil {
			return
		}
		var want struct {
			Path, Mode string
			Content    string
		}
		dec := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &dec); err != nil {
			t.Fatalf("took %q: %v", raw, err)
		}
		_ = json.Unmarshal(dec["path"], &want.Path)
		_ = json.Unmarshal(dec["mode"], &want.Mode)
		if up.Path != want.Path || up.Mode != want.Mode {
			t.Fatalf("%q: %+v, want %+v", raw, up, want)
		}
	})
}
