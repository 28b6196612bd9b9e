package httpapi

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// lingerTimeout is how long a client gets to close its end after the last frame.
const lingerTimeout = 5 * time.Second

// mode is what a session does with the command's output.
type mode int

const (
	live   mode = iota // it goes to the client
	parked             // the client is gone: output waits in the guest
	drain              // nobody wants it: it is read and dropped
)

// session is the daemon's end of a streamed command: it pumps between the
// client's connection and the process. When the connection breaks it parks,
// and when nobody attaches in time it kills the command. A detached command is
// drained, so that it never blocks; the guest keeps the last of its output.
type session struct {
	proc machine.Process
	conn net.Conn // nil: drained from the start
	log  *slog.Logger
	stop context.CancelFunc // ends the session, not the command; set by execs.run
	done chan struct{}      // closed when the session has ended

	ended   func(machine.ExitStatus) // told before the client is; set by execs.run
	release func()                   // gives back the command's place among those that run; may be nil

	writeMu sync.Mutex // one frame at a time

	mu       sync.Mutex
	cond     *sync.Cond
	mode     mode
	stopped  bool
	killed   bool                   // by the client
	sent     hyperfleet.ExecOffsets // output that went to the client
	acked    hyperfleet.ExecOffsets // output that the client has consumed
	input    []byte                 // from the client, for the process
	inputEOF bool
}

func newSession(proc machine.Process, conn net.Conn, log *slog.Logger) *session {
	s := &session{proc: proc, conn: conn, log: log, done: make(chan struct{})}
	s.cond = sync.NewCond(&s.mu)
	from := proc.Start()
	s.sent = hyperfleet.ExecOffsets{Stdin: from.Stdin, Stdout: from.Stdout, Stderr: from.Stderr}
	s.acked = s.sent
	if conn == nil {
		s.mode = drain
	}
	return s
}

// run serves the command until it has ended or the session is to end. It
// returns once all its goroutines have ended.
func (s *session) run(ctx context.Context, grace time.Duration) {
	var wg sync.WaitGroup
	ended := make(chan struct{}) // all output is read
	lost := make(chan struct{})  // the connection has ended
	if s.conn != nil {
		defer context.AfterFunc(ctx, func() { s.conn.Close() })()
	}
	s.begin()
	wg.Go(func() {
		defer close(lost)
		s.receive()
	})
	wg.Go(s.feed)
	wg.Go(func() {
		defer close(ended)
		s.pumpAll()
	})
	if s.await(ctx, grace, ended, lost) {
		exit, err := s.proc.Wait(ctx)
		if err == nil && s.ended != nil {
			s.ended(exit)
		}
		s.finish(exit, err, lost)
	}
	s.shut()
	wg.Wait()
}

// await returns true when the output has ended, false when ctx has.
func (s *session) await(ctx context.Context, grace time.Duration, ended, lost <-chan struct{}) bool {
	var expired <-chan time.Time
	for {
		select {
		case <-ended:
			return ctx.Err() == nil
		case <-ctx.Done():
			return false
		case <-lost:
			lost = nil
			if s.park() {
				timer := time.NewTimer(grace)
				defer timer.Stop()
				expired = timer.C
			}
		case <-expired:
			s.log.Info("kill a command that nobody came back to", "exec", s.proc.ID())
			s.signal(sigKill)
			s.setMode(drain)
		}
	}
}

// park stops the pumps, unless the client has detached or has killed the
// command before it left: nobody comes back to that.
func (s *session) park() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mode == live && s.killed {
		s.mode = drain
		s.cond.Broadcast()
	}
	if s.mode == live {
		s.mode = parked
	}
	return s.mode == parked
}

func (s *session) setMode(m mode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = m
	s.cond.Broadcast()
}

// finish tells the client how the command ended and lets it close first, since
// closing with unread input would make TCP drop what we sent last.
func (s *session) finish(exit machine.ExitStatus, err error, lost <-chan struct{}) {
	if s.conn == nil {
		return
	}
	if err != nil {
		e := publicError(err)
		err = s.sendJSON(hyperfleet.FrameError, errorFrame{e.body, e.status})
	} else {
		err = s.sendJSON(hyperfleet.FrameExit, hyperfleet.ExecResult{ExitCode: exit.Code, Signal: exit.Signal, TimedOut: exit.TimedOut, ExecID: s.proc.ID()})
	}
	half, ok := s.conn.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		return
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(lingerTimeout)) // fails on a closed connection only
	<-lost
}

type errorFrame struct {
	hyperfleet.ErrorBody
	Status int `json:"status"`
}

// shut unblocks every goroutine of the session.
func (s *session) shut() {
	s.mu.Lock()
	s.stopped = true
	s.cond.Broadcast()
	s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
	letGo(s.proc)
}

// pumpAll delivers both outputs to their ends.
func (s *session) pumpAll() {
	var wg sync.WaitGroup
	wg.Go(func() { s.pump(hyperfleet.FrameStdout, s.proc.Stdout(), &s.sent.Stdout, &s.acked.Stdout) })
	wg.Go(func() { s.pump(hyperfleet.FrameStderr, s.proc.Stderr(), &s.sent.Stderr, &s.acked.Stderr) })
	wg.Wait()
}

func (s *session) pump(t hyperfleet.FrameType, r io.Reader, sent, acked *int64) {
	buf := make([]byte, 32<<10)
	for {
		may := s.mayRead(sent, acked)
		if may <= 0 {
			return
		}
		n, err := r.Read(buf[:min(may, int64(len(buf)))])
		if n > 0 {
			s.deliver(t, buf[:n], sent)
		}
		if err != nil {
			return
		}
	}
}

// mayRead waits until output is wanted, and returns how much; 0 when the
// session is to end.
func (s *session) mayRead(sent, acked *int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.stopped {
		if s.mode == drain {
			return hyperfleet.ExecWindow
		}
		if window := hyperfleet.ExecWindow - (*sent - *acked); s.mode == live && window > 0 {
			return window
		}
		s.cond.Wait()
	}
	return 0
}

// deliver sends output to the client, if there is one. A connection that
// breaks is the reader's to notice; the client asks again for what it missed.
func (s *session) deliver(t hyperfleet.FrameType, p []byte, sent *int64) {
	s.mu.Lock()
	wanted := s.mode == live
	*sent += int64(len(p))
	s.mu.Unlock()
	if wanted && s.send(t, p) != nil {
		s.hearOut()
	}
}

// feed writes input to the process and acknowledges it.
func (s *session) feed() {
	stdin := s.proc.Stdin()
	for {
		chunk, eof := s.nextInput()
		if eof {
			stdin.Close()
		}
		if chunk == nil {
			return
		}
		// A command that has closed its input drops the rest, as a pipe would;
		// a broken connection is the reader's to notice.
		_, _ = stdin.Write(chunk)
		_ = s.acknowledge()
	}
}

func (s *session) nextInput() (chunk []byte, eof bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.stopped {
		if len(s.input) > 0 {
			chunk, s.input = s.input, nil
			s.sent.Stdin += int64(len(chunk))
			return chunk, false
		}
		if s.inputEOF {
			return nil, true
		}
		s.cond.Wait()
	}
	return nil, false
}

func (s *session) acknowledge() error {
	s.mu.Lock()
	at := hyperfleet.ExecOffsets{Stdin: s.sent.Stdin}
	s.mu.Unlock()
	return s.sendJSON(hyperfleet.FrameStdinAck, at)
}

// begin sends the first frame. A connection that breaks here is noticed by
// receive.
func (s *session) begin() {
	if s.conn == nil {
		return
	}
	if s.sendJSON(hyperfleet.FrameStarted, hyperfleet.ExecStarted{ExecID: s.proc.ID(), ExecOffsets: s.sent}) != nil {
		s.hearOut()
	}
}

// hearOut ends a connection that takes no more, after what the client had still
// sent: a client that leaves in a hurry kills its command with its last frame.
func (s *session) hearOut() {
	if s.conn.SetReadDeadline(time.Now().Add(lingerTimeout)) != nil {
		s.conn.Close()
	}
}

// receive handles the client's frames until the connection ends.
func (s *session) receive() {
	if s.conn == nil {
		return
	}
	r := bufio.NewReaderSize(s.conn, 32<<10)
	buf := make([]byte, hyperfleet.MaxFramePayload)
	for {
		t, payload, err := hyperfleet.ReadFrame(r, buf)
		if err == nil {
			err = s.handle(t, payload)
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Debug("streamed exec", "exec", s.proc.ID(), "err", err)
			}
			s.conn.Close()
			return
		}
	}
}

func (s *session) handle(t hyperfleet.FrameType, payload []byte) error {
	switch t {
	case hyperfleet.FrameStdin:
		return s.addInput(payload)
	case hyperfleet.FrameStdinClose:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.inputEOF = true
		s.cond.Broadcast()
		return nil
	case hyperfleet.FrameSignal:
		sig, err := parseSignal(string(payload))
		if err == nil {
			s.signal(sig)
			s.mu.Lock()
			s.killed = s.killed || sig == sigKill
			s.mu.Unlock()
		}
		return err
	case hyperfleet.FrameDetach:
		s.setMode(drain)
		return nil
	case hyperfleet.FrameAck:
		return s.ack(payload)
	}
	return fmt.Errorf("frame %d of the client is unknown", t)
}

func (s *session) addInput(p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.input)+len(p) > hyperfleet.ExecWindow+hyperfleet.MaxFramePayload {
		return errors.New("client sent more input than its window")
	}
	s.input = append(s.input, p...)
	s.cond.Broadcast()
	return nil
}

func (s *session) ack(payload []byte) error {
	var at hyperfleet.ExecOffsets
	if err := json.Unmarshal(payload, &at); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.Stdout > s.sent.Stdout || at.Stderr > s.sent.Stderr {
		return errors.New("client acknowledged output that it was not sent")
	}
	s.acked.Stdout, s.acked.Stderr = max(s.acked.Stdout, at.Stdout), max(s.acked.Stderr, at.Stderr)
	s.cond.Broadcast()
	return nil
}

// signal passes a signal on. A command that has ended by now gets none.
func (s *session) signal(sig int) {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := s.proc.Signal(ctx, sig); err != nil {
		s.log.Debug("signal a command", "exec", s.proc.ID(), "err", err)
	}
}

func (s *session) send(t hyperfleet.FrameType, payload []byte) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	return hyperfleet.WriteFrame(s.conn, t, payload)
}

func (s *session) sendJSON(t hyperfleet.FrameType, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.send(t, payload)
}
