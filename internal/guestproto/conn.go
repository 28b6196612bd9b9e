package guestproto

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// Config sets the timers of a session. The zero value has the defaults.
type Config struct {
	Ping time.Duration // a ping is sent after this much silence of the peer; default 5 s
	Idle time.Duration // the session breaks after this much silence; default 30 s
}

// Memory that one session may take, in bytes. The host's is for one machine of
// many, the guest's for a machine of 64 MiB.
const (
	readBuffer  = 64 << 10  // holds a whole frame
	sendRoom    = 256 << 10 // data waits while this much is not written yet
	sendLimit   = 4 << 20   // replies to a peer that does not read them
	hostGrowth  = 64 << 20  // windows above InitialWindow
	guestGrowth = 8 << 20
	heldLimit   = 16 << 20 // requests, messages and results not yet decoded
)

// spareStreams is how many streams above MaxStreams the guest accepts: the host
// counts a stream out when it ends, the guest when its handler has returned.
const spareStreams = 1024

// Conn is one session. Only the host opens streams and only the guest accepts
// them. Conn has two goroutines, which Close waits for.
type Conn struct {
	rwc  io.ReadWriteCloser
	br   *bufio.Reader
	host bool
	cfg  Config

	heard   atomic.Int64  // bytes received; the keep-alive watches it grow
	kick    chan struct{} // capacity 1: there is something to write
	arrived chan struct{} // capacity 1: there is a stream to accept
	done    chan struct{}
	wg      sync.WaitGroup

	mu       sync.Mutex // guards what follows, and the state of all streams
	err      error      // why the session ended
	streams  map[uint32]*Stream
	last     uint32 // number of the newest stream
	places   int    // streams not yet closed by their user
	growth   int    // bytes by which windows may still grow
	held     int    // bytes of requests, messages and results
	backlog  []*Stream
	partial  []byte // of the request that is being received
	out      []byte // frames to write
	spare    []byte // the buffer that is not out
	due      bool   // out is to be written now
	queued   int64  // bytes ever put into out
	written  int64  // bytes ever written
	writing  time.Time
	waiters  waitList // for room in out
	flushers waitList // for written to grow
	watch    *time.Timer
}

func newConn(rwc io.ReadWriteCloser, br *bufio.Reader, cfg Config, host bool) *Conn {
	if cfg.Ping <= 0 {
		cfg.Ping = 5 * time.Second
	}
	if cfg.Idle <= 0 {
		cfg.Idle = 30 * time.Second
	}
	c := &Conn{
		rwc: rwc, br: br, host: host, cfg: cfg,
		kick:    make(chan struct{}, 1),
		arrived: make(chan struct{}, 1),
		done:    make(chan struct{}),
		streams: make(map[uint32]*Stream),
		growth:  guestGrowth,
	}
	if host {
		c.growth = hostGrowth
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startWatch()
	c.wg.Go(c.readLoop)
	c.wg.Go(c.writeLoop)
	return c
}

// Open starts a stream: the request is sent without waiting for an answer.
// ctx bounds the wait for room to send, not the stream's life. It fails with
// CodeRefused (an *Error) beyond MaxStreams. The caller closes the stream.
func (c *Conn) Open(ctx context.Context, method Method, request any) (*Stream, error) {
	if !c.host || method == "" || len(method) > maxMethod {
		return nil, fmt.Errorf("open stream %q: not allowed", method)
	}
	req, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encode %s request: %w", method, err)
	}
	if len(req) > MaxRequest {
		return nil, Errorf(KindInvalid, CodeBadRequest, "%s request of %d bytes is above %d", method, len(req), MaxRequest)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.waitRoom(ctx.Done(), func() error { return context.Cause(ctx) }); err != nil {
		return nil, err
	}
	if c.places >= MaxStreams {
		return nil, Errorf(KindExhausted, CodeRefused, "more than %d requests at once", MaxStreams)
	}
	if c.last == ^uint32(0) {
		c.failLocked(errors.New("stream numbers used up"))
		return nil, c.err
	}
	c.last++
	s := newStream(c, c.last, method)
	s.adopt(context.WithoutCancel(ctx))
	c.streams[s.id] = s
	c.places++
	mark := len(c.out)
	c.sendLocked(appendOpen(c.out, s.id, method, req), mark)
	return s, nil
}

// Accept returns the next stream that the host opened. ctx is also the parent
// of the stream's context. It fails when ctx is done or the session has ended.
// The caller closes the stream.
func (c *Conn) Accept(ctx context.Context) (*Stream, error) {
	for {
		if s, err := c.pop(ctx); s != nil || err != nil {
			return s, err
		}
		select {
		case <-c.arrived:
		case <-c.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (c *Conn) pop(ctx context.Context) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if len(c.backlog) == 0 {
		return nil, nil
	}
	s := c.backlog[0]
	c.backlog[0] = nil
	c.backlog = c.backlog[1:]
	if len(c.backlog) > 0 {
		signal(c.arrived)
	}
	s.adopt(ctx)
	return s, nil
}

// Flush waits until everything that was sent before has been written.
func (c *Conn) Flush(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kickLocked()
	for target := c.queued; c.written < target; {
		if c.err != nil {
			return c.err
		}
		if err := c.flushers.wait(&c.mu, c.done, ctx.Done()); err != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// Done is closed when the session has ended, for whatever reason.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the session ended: it wraps ErrBroken and, where it applies,
// ErrProtocol, ErrIdle, ErrClosed or the error of the connection. It is nil
// before Done.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the session and all its streams, closes the connection and waits
// for the session's goroutines. It is idempotent.
func (c *Conn) Close() {
	c.fail(ErrClosed)
	c.wg.Wait()
}

func (c *Conn) fail(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(cause)
}

// failLocked ends the session: every stream is over, every wait returns.
func (c *Conn) failLocked(cause error) {
	if c.err != nil {
		return
	}
	c.err = fmt.Errorf("%w: %w", ErrBroken, cause)
	for _, s := range c.streams {
		s.overLocked(c.err)
	}
	c.backlog, c.partial = nil, nil
	c.watch.Stop()
	close(c.done)
	c.rwc.Close() // ends a blocked Read and Write
}

// signal makes a pending note in a channel of capacity 1.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
