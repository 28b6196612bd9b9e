package guestproto

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stallConn writes nothing once it is stalled, and stays open.
type stallConn struct {
	net.Conn
	stalled atomic.Bool
	closed  chan struct{}
	once    sync.Once
}

func newStallConn(nc net.Conn) *stallConn { return &stallConn{Conn: nc, closed: make(chan struct{})} }

func (c *stallConn) Write(p []byte) (int, error) {
	if c.stalled.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return c.Conn.Write(p)
}

func (c *stallConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func TestSilentPeerBreaksSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		stall := newStallConn(b)
		host, guest := connect(t, a, stall, Config{Ping: time.Second, Idle: 10 * time.Second})
		<-time.After(time.Minute) // an idle session lives: pings are answered
		if host.Err() != nil || guest.Err() != nil {
			t.Fatalf("idle session ended: %v, %v", host.Err(), guest.Err())
		}
		stall.stalled.Store(true)
		began := time.Now()
		<-host.Done()
		<-guest.Done()
		// Either side may see it first: the guest has a write that stands still.
		idle := errors.Is(host.Err(), ErrIdle) || errors.Is(guest.Err(), ErrIdle)
		if d := time.Since(began); d > 12*time.Second || !idle {
			t.Errorf("session ended after %v with %v and %v", d, host.Err(), guest.Err())
		}
	})
}

// A peer that sends and never reads does not hold the session for ever.
func TestPeerThatDoesNotReadBreaksSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		host := newConn(a, bufio.NewReaderSize(a, readBuffer), Config{Ping: time.Second, Idle: 10 * time.Second}, true)
		chatter := make(chan struct{})
		go func() {
			defer close(chatter)
			pong := appendFrame(nil, framePong, 0, 0, make([]byte, pingSize))
			for {
				if _, err := b.Write(pong); err != nil {
					return
				}
				<-time.After(100 * time.Millisecond)
			}
		}()
		if _, err := host.Open(t.Context(), "x", nil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		<-host.Done()
		if d := time.Since(began); d > 12*time.Second || !errors.Is(host.Err(), ErrIdle) {
			t.Errorf("session ended after %v with %v", d, host.Err())
		}
		host.Close()
		b.Close()
		<-chatter
	})
}

// countingConn counts writes.
type countingConn struct {
	net.Conn
	writes atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestShortExecIsOneWriteEachWay(t *testing.T) {
	a, b := socketPair(t)
	ca, cb := &countingConn{Conn: a}, &countingConn{Conn: b}
	host, guest := connect(t, ca, cb, Config{})
	serve(t, guest, func(s *Stream) {
		s.SendSoon(ExecStarted{}, time.Minute)
		s.End(ExecExit{Code: 7})
	})
	wa, wb := ca.writes.Load(), cb.writes.Load()
	s := open(t, host, MethodExecStart, ExecStart{ID: "a", Argv: []Text{"true"}})
	var started ExecStarted
	if err := s.Message(t.Context(), &started); err != nil {
		t.Fatal(err)
	}
	var exit ExecExit
	if err := s.Result(t.Context(), &exit); err != nil || exit.Code != 7 {
		t.Fatal(exit, err)
	}
	s.Close()
	if x, y := ca.writes.Load()-wa, cb.writes.Load()-wb; x != 1 || y != 1 {
		t.Fatalf("%d writes by the host, %d by the guest", x, y)
	}
}

func TestSendSoonGoesAlone(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		s.SendSoon("hello", time.Millisecond)
		<-s.Done()
	})
	var got string
	if err := open(t, host, "x", nil).Message(t.Context(), &got); err != nil || got != "hello" {
		t.Fatal(got, err)
	}
}

func TestFlush(t *testing.T) {
	host, guest := session(t)
	written := make(chan struct{})
	serve(t, guest, func(s *Stream) {
		s.End(nil)
		if err := guest.Flush(context.Background()); err != nil {
			t.Error(err)
		}
		close(written)
	})
	open(t, host, "x", nil)
	<-written
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a, b := net.Pipe()
	stuck := newTestConn(a, true)
	defer stuck.Close()
	defer b.Close()
	stuck.Open(t.Context(), "x", nil)
	if err := stuck.Flush(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("flush to a peer that does not read: %v", err)
	}
}

func TestOpenGivesUpWithContext(t *testing.T) {
	a, b := net.Pipe() // nobody reads
	defer b.Close()
	host := newTestConn(a, true)
	defer host.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		await(t, func() bool { host.mu.Lock(); defer host.mu.Unlock(); return host.waiters.l.Len() == 1 })
		cancel()
	}()
	for {
		_, err := host.Open(ctx, "x", word{string(pattern(100_000))})
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			return
		}
	}
}
