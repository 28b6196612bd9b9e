package guestproto

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// Stream is one request and its answer. A stream is over when the guest has
// ended it (End or Fail), either side has reset it, or the session broke. What
// was received before the end can still be read after it.
type Stream struct {
	conn   *Conn
	id     uint32
	method Method
	over   chan struct{} // closed when err is set
	mail   chan struct{} // capacity 1: there is a message
	ctx    context.Context
	cancel context.CancelCauseFunc

	// conn.mu guards what follows.
	err      error // why it is over: ErrEnded, an *Error, or a broken session
	closed   bool
	grown    int // bytes of conn.growth in use
	request  []byte
	messages []json.RawMessage
	result   json.RawMessage
	soon     *time.Timer
	send     [Stderr + 1]sendHalf
	recv     [Stderr + 1]recvHalf
}

func newStream(c *Conn, id uint32, method Method) *Stream {
	s := &Stream{
		conn: c, id: id, method: method,
		over: make(chan struct{}),
		mail: make(chan struct{}, 1),
	}
	for ch := Stdin; ch <= Stderr; ch++ {
		if c.outgoing(ch) {
			s.send[ch] = sendHalf{credit: InitialWindow, notify: make(chan struct{}, 1)}
		} else {
			s.recv[ch] = recvHalf{window: InitialWindow, allowed: InitialWindow, notify: make(chan struct{}, 1)}
		}
	}
	return s
}

// adopt gives the stream its context.
func (s *Stream) adopt(parent context.Context) {
	s.ctx, s.cancel = context.WithCancelCause(parent)
	if s.err != nil {
		s.cancel(s.err)
	}
}

// Method is what the stream asks for.
func (s *Stream) Method() Method { return s.method }

// Request decodes the request into v, once, and fails with CodeBadRequest (an
// *Error). The Validate method of v is called when it has one.
func (s *Stream) Request(v any) error {
	s.conn.mu.Lock()
	raw := s.request
	s.request = nil
	s.conn.held -= len(raw)
	s.conn.mu.Unlock()
	if err := decode(raw, v); err != nil {
		return Errorf(KindInvalid, CodeBadRequest, "%s: %v", s.method, err)
	}
	return nil
}

// decode reads one JSON value into v and validates it.
func decode(raw []byte, v any) error {
	if err := unmarshal(raw, v); err != nil {
		return err
	}
	if m, ok := v.(interface{ Validate() error }); ok {
		return m.Validate()
	}
	return nil
}

// Context is done when the stream is over (also when the peer reset it or the
// session broke); its cause is Err.
func (s *Stream) Context() context.Context { return s.ctx }

// Done is closed when the stream is over.
func (s *Stream) Done() <-chan struct{} { return s.over }

// Err says why the stream is over: ErrEnded after a good end, an *Error after a
// reset, an error that wraps ErrBroken when the session ended. It is nil before.
func (s *Stream) Err() error {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return s.err
}

// Send sends a control message.
func (s *Stream) Send(v any) error {
	return s.post(frameMessage, v, s.conn.sendLocked)
}

// SendSoon sends a control message together with whatever the session sends
// next, or alone after delay. It keeps a short request to one write.
func (s *Stream) SendSoon(v any, delay time.Duration) error {
	return s.post(frameMessage, v, func(b []byte, mark int) {
		s.conn.queueLocked(b, mark)
		s.soon = time.AfterFunc(delay, func() {
			s.conn.mu.Lock()
			defer s.conn.mu.Unlock()
			s.conn.kickLocked()
		})
	})
}

// post encodes v into a frame and hands it to queue, with conn.mu held.
func (s *Stream) post(typ frameType, v any, queue func(b []byte, mark int)) error {
	p, err := marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s of %s: %w", typ, s.method, err)
	}
	if len(p) > MaxMessage {
		return fmt.Errorf("%s of %s: %d bytes are above %d", typ, s.method, len(p), MaxMessage)
	}
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.ready(); err != nil {
		return err
	}
	mark := len(c.out)
	queue(appendFrame(c.out, typ, Control, s.id, p), mark)
	return nil
}

// ready waits until the stream may send. conn.mu is held.
func (s *Stream) ready() error {
	if s.err == nil {
		if err := s.conn.waitRoom(s.over, func() error { return s.err }); err != nil {
			return err
		}
	}
	return s.err
}

// Recv returns the next control message. After the last one it fails with
// ErrEnded, or with what ended the stream.
func (s *Stream) Recv(ctx context.Context) (json.RawMessage, error) {
	for {
		if m, err := s.nextMessage(); m != nil || err != nil {
			return m, err
		}
		select {
		case <-s.mail:
		case <-s.over:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Stream) nextMessage() (json.RawMessage, error) {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if len(s.messages) == 0 {
		return nil, s.err
	}
	m := s.messages[0]
	s.messages = s.messages[1:]
	s.conn.held -= len(m)
	return m, nil
}

// Message receives the next control message into v.
func (s *Stream) Message(ctx context.Context, v any) error {
	m, err := s.Recv(ctx)
	if err != nil {
		return err
	}
	return s.answer(m, v)
}

// answer decodes what the peer said.
func (s *Stream) answer(raw json.RawMessage, v any) error {
	if err := decode(raw, v); err != nil {
		return Errorf(KindGuest, CodeBadAnswer, "%s: answer does not decode: %v", s.method, err)
	}
	return nil
}

// End ends the stream well, with a result (guest only). Data written before
// reaches the host first; the host reads EOF after it on every channel.
func (s *Stream) End(result any) error {
	return s.finish(frameEnd, result, ErrEnded)
}

// Fail ends the stream with an error (guest only). An *Error is sent as it is,
// an error with a syscall.Errno as KindGuest with that errno, ErrInvalid as
// KindInvalid, any other as KindGuest; all with the error's text.
func (s *Stream) Fail(err error) error {
	e := wireError(err)
	return s.finish(frameReset, e, e)
}

func (s *Stream) finish(typ frameType, v any, err error) error {
	if s.conn.host {
		return fmt.Errorf("%s of %s from the host", typ, s.method)
	}
	return s.post(typ, v, func(b []byte, mark int) {
		s.conn.sendLocked(b, mark)
		s.overLocked(err)
	})
}

func wireError(err error) *Error {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		e = &Error{Kind: KindGuest, Code: CodeGuest, Message: err.Error()}
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			e.Errno = int(errno)
		}
		if errors.Is(err, ErrInvalid) {
			e.Kind, e.Code = KindInvalid, CodeBadRequest
		}
	}
	return e.clean()
}

// parseError decodes the payload of a RESET.
func parseError(p []byte) *Error {
	var e Error
	if err := json.Unmarshal(p, &e); err != nil || e.Code == "" {
		return Errorf(KindGuest, CodeBadAnswer, "reset without a reason")
	}
	return e.clean()
}

// Result waits for the guest's End and decodes the result into v, which may be
// nil (host only). It returns what Fail was given as an *Error, or an error
// that wraps ErrBroken.
func (s *Stream) Result(ctx context.Context, v any) error {
	select {
	case <-s.over:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.conn.mu.Lock()
	err, raw := s.err, s.result
	s.conn.mu.Unlock()
	if !errors.Is(err, ErrEnded) {
		return err
	}
	if v == nil {
		return nil
	}
	return s.answer(raw, v)
}

// errCanceled is what the own Close ends a stream with, and tells the peer.
var errCanceled = Errorf(KindUnavailable, CodeCanceled, "request canceled")

// Close lets go of the stream: it resets one that is not over (CodeCanceled),
// drops what was not read, and frees its place among MaxStreams. Every Stream
// must be closed. It is idempotent.
func (s *Stream) Close() {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	if s.err == nil {
		c.frameLocked(frameReset, Control, s.id, canceledPayload)
		s.overLocked(errCanceled)
	}
	c.places--
	c.growth += s.grown
	c.held -= len(s.request) + len(s.result)
	for _, m := range s.messages {
		c.held -= len(m)
	}
	s.request, s.messages, s.grown = nil, nil, 0
	for ch := range s.recv {
		s.recv[ch].buf = fifo{}
	}
}

// Payloads of the resets that may be sent in great numbers.
var (
	canceledPayload = []byte(`{"kind":"unavailable","code":"CANCELED","message":"request canceled"}`)
	refusedPayload  = []byte(`{"kind":"exhausted","code":"TOO_MANY_STREAMS","message":"too many requests at once"}`)
)

// overLocked ends the stream on this side.
func (s *Stream) overLocked(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	delete(s.conn.streams, s.id)
	close(s.over)
	if s.cancel != nil {
		s.cancel(err)
	}
	if s.soon != nil {
		s.soon.Stop()
	}
}
