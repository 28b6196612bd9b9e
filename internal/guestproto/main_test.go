package guestproto

import (
	"bytes"
	"context"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// socketPair returns both ends of a unix socket.
func socketPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	l, err := net.Listen("unix", "@")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// connect makes a session over the two ends of a channel.
func connect(tb testing.TB, hostEnd, guestEnd net.Conn, cfg Config) (host, guest *Conn) {
	tb.Helper()
	type result struct {
		c   *Conn
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := Accept(tb.Context(), guestEnd, cfg)
		accepted <- result{c, err}
	}()
	host, err := Connect(tb.Context(), hostEnd, cfg)
	r := <-accepted
	if err != nil || r.err != nil {
		tb.Fatalf("handshake: host %v, guest %v", err, r.err)
	}
	tb.Cleanup(func() { host.Close(); r.c.Close() })
	return host, r.c
}

// session makes a session over a unix socket.
func session(tb testing.TB) (host, guest *Conn) {
	tb.Helper()
	a, b := socketPair(tb)
	return connect(tb, a, b, Config{})
}

// serve answers every stream of the guest with handler, until the session ends.
func serve(tb testing.TB, guest *Conn, handler func(s *Stream)) {
	tb.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			s, err := guest.Accept(context.Background())
			if err != nil {
				return
			}
			go func() {
				defer s.Close()
				handler(s)
			}()
		}
	}()
	tb.Cleanup(func() { guest.Close(); <-done })
}

func open(tb testing.TB, host *Conn, method Method, req any) *Stream {
	tb.Helper()
	s, err := host.Open(tb.Context(), method, req)
	if err != nil {
		tb.Fatalf("open %s: %v", method, err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// pattern is n bytes that repeat with no power of two.
func pattern(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz-"), n/37+1)[:n]
}
