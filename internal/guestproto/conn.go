package guestproto

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"time"
)

// Config sets the timers of a session. The zero value has the defaults.
type Config struct {
	Ping time.Duration // a ping is sent after this much silence of the peer; default 5 s
	Idle time.Duration // the session breaks after this much silence; default 30 s
}

// Connect is the host's side of the handshake on a new connection, and returns
// the session. It drops what an earlier session left in the channel, and wakes
// a guest that still believes in one. ctx bounds the handshake only; without a
// guest Connect waits until then. It owns nc, and closes it when it fails.
func Connect(ctx context.Context, nc net.Conn, cfg Config) (*Conn, error) { panic("to come") }

// Accept is the guest's side of the handshake on a newly opened channel, and
// returns the session. On virtio-serial it waits until a host is connected and
// answers. ctx bounds the handshake only. It owns rwc, and closes it when it
// fails; closing rwc must end a blocked Read or Write. After an error, or the
// end of the session, the guest opens the channel anew and calls Accept again;
// it should wait a little between attempts that fail.
func Accept(ctx context.Context, rwc io.ReadWriteCloser, cfg Config) (*Conn, error) {
	panic("to come")
}

// Conn is one session. Only the host opens streams and only the guest accepts
// them. Conn has two goroutines, which Close waits for.
type Conn struct{}

// Open starts a stream: the request is sent without waiting for an answer.
// ctx bounds the wait for room to send, not the stream's life. It fails with
// CodeRefused (an *Error) beyond MaxStreams. The caller closes the stream.
func (c *Conn) Open(ctx context.Context, method Method, request any) (*Stream, error) {
	panic("to come")
}

// Accept returns the next stream that the host opened. It fails when ctx is
// done or the session has ended. The caller closes the stream.
func (c *Conn) Accept(ctx context.Context) (*Stream, error) { panic("to come") }

// Flush waits until everything that was sent before has been written.
func (c *Conn) Flush(ctx context.Context) error { panic("to come") }

// Done is closed when the session has ended, for whatever reason.
func (c *Conn) Done() <-chan struct{} { panic("to come") }

// Err says why the session ended: it wraps ErrBroken and, where it applies,
// ErrProtocol, ErrIdle, ErrClosed or the error of the connection. It is nil
// before Done.
func (c *Conn) Err() error { panic("to come") }

// Close ends the session and all its streams, closes the connection and waits
// for the session's goroutines. It is idempotent and returns nil.
func (c *Conn) Close() error { panic("to come") }

// Stream is one request and its answer. A stream is over when the guest has
// ended it (End or Fail), either side has reset it, or the session broke. What
// was received before the end can still be read after it.
type Stream struct{}

// Method is what the stream asks for.
func (s *Stream) Method() Method { panic("to come") }

// Request decodes the request into v and fails with CodeBadRequest (an *Error).
// The Validate method of v is called when it has one.
func (s *Stream) Request(v any) error { panic("to come") }

// Context is done when the stream is over (also when the peer reset it or the
// session broke); its cause is Err, or ErrEnded after End.
func (s *Stream) Context() context.Context { panic("to come") }

// Send sends a control message.
func (s *Stream) Send(v any) error { panic("to come") }

// SendSoon sends a control message together with whatever the session sends
// next, or alone after delay. It keeps a short request to one write.
func (s *Stream) SendSoon(v any, delay time.Duration) error { panic("to come") }

// Recv returns the next control message. After the last one it fails with
// ErrEnded, or with what ended the stream. Decode it with Decode.
func (s *Stream) Recv(ctx context.Context) (json.RawMessage, error) { panic("to come") }

// Reader reads a data channel: io.EOF after the peer's half-close or the good
// end of the stream, else the stream's error. Only reading gives the sender new
// credit. One goroutine at a time may read a channel.
func (s *Stream) Reader(ch Channel) io.Reader { panic("to come") }

// Writer writes a data channel; it blocks while there is no credit. Its Close
// is the half-close: the peer reads EOF. One goroutine at a time may write a
// channel.
func (s *Stream) Writer(ch Channel) io.WriteCloser { panic("to come") }

// End ends the stream well, with a result (guest only). Data written before
// reaches the host first; the host reads EOF after it on every channel.
func (s *Stream) End(result any) error { panic("to come") }

// Fail ends the stream with an error (guest only). An err that is no *Error is
// sent as KindGuest with code GUEST_ERROR and its text.
func (s *Stream) Fail(err error) error { panic("to come") }

// Result waits for the guest's End and decodes the result into v, which may be
// nil (host only). It returns what Fail was given as an *Error, or an error
// that wraps ErrBroken.
func (s *Stream) Result(ctx context.Context, v any) error { panic("to come") }

// Close lets go of the stream: it resets one that is not over (CodeCanceled),
// drops what was not read, and frees its place among MaxStreams. Every Stream
// must be closed. It is idempotent and returns nil.
func (s *Stream) Close() error { panic("to come") }
