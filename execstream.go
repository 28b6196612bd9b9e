package hyperfleet

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// ExecIO is what a streamed command is connected to. Every field may be nil.
type ExecIO struct {
	Stdin  io.Reader // nil: the command reads /dev/null
	Stdout io.Writer // nil: dropped
	Stderr io.Writer // nil: dropped

	// Signals are sent to the command's process tree, by name: "TERM", "INT".
	Signals <-chan string

	// Detach, once closed, leaves the command running; the call then returns
	// ErrDetached.
	Detach <-chan struct{}
}

// ErrDetached is returned by a call whose ExecIO.Detach was closed.
var ErrDetached = errors.New("detached from the command, which goes on")

// ErrOutputLost says that the connection was away for too long: the guest no
// longer keeps output that was not delivered. The command goes on.
var ErrOutputLost = errors.New("output of the command was lost")

// reattachFor is how long a broken connection is tried again. The server kills
// a command that nobody has come back to after a minute.
const reattachFor = time.Minute

// ExecStream runs a command with its streams connected, and returns how it
// ended. When the connection or the daemon breaks, it attaches to the command
// again, and neither input nor output is lost or doubled; the command itself
// never runs twice. When ctx ends the command is killed, as with
// exec.CommandContext.
//
// A Read of stdio.Stdin that blocks is not waited for: its goroutine ends with
// that Read.
func (c *Client) ExecStream(ctx context.Context, machineID string, req ExecRequest, stdio ExecIO) (ExecResult, error) {
	if req.ExecID == "" {
		req.ExecID = "x" + rand.Text()
	}
	req.AttachStdin = stdio.Stdin != nil
	s := newExecStream(c, machineID, req.ExecID, stdio)
	return s.run(ctx, call{method: http.MethodPost, path: machinePath(machineID, "exec"), in: req})
}

// AttachExec connects to a command that runs, or that has ended of late, from
// the given offsets of its streams on. stdio.Stdin continues at from.Stdin.
func (c *Client) AttachExec(ctx context.Context, machineID, execID string, from ExecOffsets, stdio ExecIO) (ExecResult, error) {
	s := newExecStream(c, machineID, execID, stdio)
	s.at, s.started = from, true
	s.input.base, s.input.acked = from.Stdin, from.Stdin
	return s.run(ctx, s.attachCall())
}

// execStream is one ExecStream call, over as many connections as it takes.
type execStream struct {
	client  *Client
	machine string
	id      string
	stdio   ExecIO
	input   *stdinWindow
	started bool        // the server has confirmed the command once
	killed  bool        // the server was told to kill it
	at      ExecOffsets // output that was delivered
	acked   ExecOffsets // output that the server was told of
}

func newExecStream(c *Client, machineID, execID string, stdio ExecIO) *execStream {
	if stdio.Stdout == nil {
		stdio.Stdout = io.Discard
	}
	if stdio.Stderr == nil {
		stdio.Stderr = io.Discard
	}
	return &execStream{client: c, machine: machineID, id: execID, stdio: stdio, input: newStdinWindow()}
}

// errBroken wraps what ended a connection before the command did.
var errBroken = errors.New("connection to the command broke")

func (s *execStream) run(ctx context.Context, first call) (ExecResult, error) {
	if s.stdio.Stdin != nil {
		go s.input.fill(s.stdio.Stdin)
	}
	defer s.input.close()

	res, err := s.connection(ctx, first)
	if errors.Is(err, ErrNoDaemon) && !s.started {
		return res, err // nobody was asked: there is nothing to attach to
	}
	var since time.Time // when the present series of failures began
	for pause := 50 * time.Millisecond; retryable(err) && ctx.Err() == nil; pause = min(2*pause, 2*time.Second) {
		if since.IsZero() {
			since = time.Now()
		} else if time.Since(since) > reattachFor {
			break
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		was := s.at
		res, err = s.connection(ctx, s.attachCall())
		if s.at != was {
			since, pause = time.Time{}, 25*time.Millisecond
		}
	}
	if errors.Is(err, ErrNotFound) && !s.started {
		return res, fmt.Errorf("%w before the command was started: %w", errBroken, err)
	}
	if ctx.Err() != nil && (err != nil || res.Signal == "SIGKILL") {
		if !s.killed {
			s.abandon(ctx)
		}
		return res, context.Cause(ctx)
	}
	return res, err
}

// abandon kills a command whose caller left before there was a connection to
// say so. If it does not get through, the server kills the command after its
// grace.
func (s *execStream) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	kill := make(chan string, 1)
	kill <- "KILL"
	last := newExecStream(s.client, s.machine, s.id, ExecIO{Signals: kill})
	last.at, last.started = s.at, true
	_, _ = last.connection(ctx, last.attachCall())
}

// retryable reports whether attaching again can help: the connection broke, or
// the daemon is not back yet.
func retryable(err error) bool {
	return errors.Is(err, errBroken) || errors.Is(err, ErrNoDaemon) || errors.Is(err, ErrUnavailable)
}

func (s *execStream) attachCall() call {
	return call{
		method: http.MethodPost, path: machinePath(s.machine, "exec", s.id, "attach"),
		in: ExecOffsets{Stdout: s.at.Stdout, Stderr: s.at.Stderr},
	}
}

// connection makes one connection and serves it until the command has ended
// or the connection breaks.
func (s *execStream) connection(ctx context.Context, q call) (ExecResult, error) {
	q.header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {ExecProtocol}}
	resp, err := s.client.send(ctx, q)
	if err != nil {
		if apiErr := (*Error)(nil); errors.As(err, &apiErr) || errors.Is(err, ErrNoDaemon) || ctx.Err() != nil || s.client.err != nil {
			return ExecResult{}, err
		}
		return ExecResult{}, fmt.Errorf("%w: %w", errBroken, err)
	}
	conn, ok := resp.Body.(io.ReadWriteCloser)
	if resp.StatusCode != http.StatusSwitchingProtocols || !ok {
		resp.Body.Close()
		return ExecResult{}, fmt.Errorf("the server answered %s, not with an upgrade to %s", resp.Status, ExecProtocol)
	}
	return s.serve(ctx, conn)
}

// serve owns conn: it closes it and waits for the goroutines that use it.
func (s *execStream) serve(ctx context.Context, conn io.ReadWriteCloser) (ExecResult, error) {
	out := &frameWriter{w: conn}
	ended := make(chan struct{})
	stdinFrom := make(chan int64, 1)
	detached := false
	defer context.AfterFunc(ctx, func() { time.AfterFunc(farewell, func() { conn.Close() }) })()
	var wg sync.WaitGroup
	wg.Go(func() { s.sendStdin(out, stdinFrom, ended) })
	wg.Go(func() { detached = s.sendControl(ctx, out, conn, ended) })

	res, err := s.receive(conn, out, stdinFrom)
	close(ended)
	s.input.wake()
	conn.Close()
	wg.Wait()
	if detached {
		return ExecResult{}, ErrDetached
	}
	return res, err
}

// receive delivers what the server sends until the command has ended.
func (s *execStream) receive(conn io.Reader, out *frameWriter, stdinFrom chan<- int64) (ExecResult, error) {
	var res ExecResult
	r := bufio.NewReaderSize(conn, MaxFramePayload)
	buf := make([]byte, MaxFramePayload)
	for {
		t, payload, err := ReadFrame(r, buf)
		if err != nil {
			return res, fmt.Errorf("%w: %w", errBroken, unexpected(err))
		}
		switch t {
		case FrameStarted:
			if err := s.begin(payload, stdinFrom); err != nil {
				return res, err
			}
		case FrameStdout:
			err = s.deliver(s.stdio.Stdout, payload, &s.at.Stdout, out)
		case FrameStderr:
			err = s.deliver(s.stdio.Stderr, payload, &s.at.Stderr, out)
		case FrameStdinAck:
			var at ExecOffsets
			err = json.Unmarshal(payload, &at)
			s.input.ack(at.Stdin)
		case FrameExit:
			err = json.Unmarshal(payload, &res)
			return res, err
		case FrameError:
			return res, frameError(payload)
		default:
			err = fmt.Errorf("unknown frame %d of the server", t)
		}
		if err != nil {
			return res, err
		}
	}
}

// begin takes the first frame: the server may begin later than asked for when
// the guest no longer keeps the output.
func (s *execStream) begin(payload []byte, stdinFrom chan<- int64) error {
	var st ExecStarted
	if err := json.Unmarshal(payload, &st); err != nil {
		return fmt.Errorf("first frame of the server: %w", err)
	}
	if gap := st.Stdout - s.at.Stdout + st.Stderr - s.at.Stderr; gap != 0 {
		return fmt.Errorf("%w: %d bytes", ErrOutputLost, gap)
	}
	s.started, s.acked = true, s.at
	if s.stdio.Stdin != nil {
		if err := s.input.rewind(st.Stdin); err != nil {
			return err
		}
	}
	select {
	case stdinFrom <- st.Stdin:
	default:
		return errors.New("a second first frame of the server")
	}
	return nil
}

// deliver writes output, and tells the server once enough was consumed.
func (s *execStream) deliver(w io.Writer, p []byte, at *int64, out *frameWriter) error {
	if n, err := w.Write(p); err != nil {
		*at += int64(n)
		return errors.Join(fmt.Errorf("write the command's output: %w", err), out.frame(FrameSignal, []byte("KILL")))
	}
	*at += int64(len(p))
	if s.at.Stdout-s.acked.Stdout < ExecWindow/4 && s.at.Stderr-s.acked.Stderr < ExecWindow/4 {
		return nil
	}
	s.acked = s.at
	ack, err := json.Marshal(ExecOffsets{Stdout: s.at.Stdout, Stderr: s.at.Stderr})
	if err != nil {
		return err
	}
	if err := out.frame(FrameAck, ack); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return nil
}

// sendStdin sends input from where the command has it, until the end.
func (s *execStream) sendStdin(out *frameWriter, from <-chan int64, ended <-chan struct{}) {
	if s.stdio.Stdin == nil {
		return
	}
	var at int64
	select {
	case at = <-from:
	case <-ended:
		return
	}
	for {
		t := FrameStdin
		chunk, eof := s.input.next(at, ended)
		if eof {
			t = FrameStdinClose
		} else if chunk == nil {
			return
		}
		if err := out.frame(t, chunk); err != nil || eof {
			return // receive sees the break too
		}
		at += int64(len(chunk))
	}
}

// farewell is how long a peer that takes no more frames can keep a call from
// returning.
const farewell = time.Second

// sendControl sends signals until the command has ended, and says whether it
// ended the connection by detaching. A frame that cannot be sent is no news
// here: receive sees the break too.
func (s *execStream) sendControl(ctx context.Context, out *frameWriter, conn io.Closer, ended <-chan struct{}) bool {
	signals := s.stdio.Signals
	for {
		select {
		case name, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			if out.frame(FrameSignal, []byte(name)) != nil {
				return false
			}
		case <-s.stdio.Detach:
			defer time.AfterFunc(farewell, func() { conn.Close() }).Stop()
			err := out.frame(FrameDetach, nil)
			conn.Close()
			return err == nil
		case <-ctx.Done():
			s.killed = out.frame(FrameSignal, []byte("KILL")) == nil
			if s.killed {
				conn.Close()
			}
			return false
		case <-ended:
			return false
		}
	}
}

// frameError is the error that a FrameError carries.
func frameError(payload []byte) error {
	var body struct {
		ErrorBody
		Status int `json:"status"`
	}
	if err := json.Unmarshal(payload, &body); err != nil {
		return fmt.Errorf("error frame of the server: %w", err)
	}
	return &Error{Status: body.Status, Name: body.Error, Code: body.Code, Message: body.Message, Details: body.Details}
}

// frameWriter lets several goroutines write frames to one connection.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frameWriter) frame(t FrameType, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return WriteFrame(f.w, t, payload)
}
