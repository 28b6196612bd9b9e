package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
)

// fakeConn is of an address.
type fakeConn struct {
	net.Conn
	addr net.Addr
	shut bool
}

func (c *fakeConn) RemoteAddr() net.Addr { return c.addr }
func (c *fakeConn) Close() error         { c.shut = true; return nil }

// fakeListener accepts what it is given, and is then closed.
type fakeListener struct {
	net.Listener
	next []net.Conn
}

func (l *fakeListener) Accept() (net.Conn, error) {
	if len(l.next) == 0 {
		return nil, net.ErrClosed
	}
	c := l.next[0]
	l.next = l.next[1:]
	return c, nil
}

func from(addr string) *fakeConn {
	return &fakeConn{addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 1))}
}

func (l *fakeListener) Addr() net.Addr { return &net.UnixAddr{Name: "fake"} }

// drain accepts until the listener has no more.
func drain(t *testing.T, l net.Listener) (list []net.Conn) {
	t.Helper()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, c)
	}
}

func TestLimitedListener(t *testing.T) {
	unix := func() *fakeConn { return &fakeConn{addr: &net.UnixAddr{}} }
	for _, c := range []struct {
		name      string
		all, each int
		conns     []*fakeConn
		accepted  int
	}{
		{"no limits", 0, 0, []*fakeConn{from("192.0.2.1"), from("192.0.2.1"), unix()}, 3},
		{"in all", 2, 0, []*fakeConn{from("192.0.2.1"), unix(), from("192.0.2.2")}, 2},
		{"an address", 0, 2, []*fakeConn{from("192.0.2.1"), from("::ffff:192.0.2.1"), from("192.0.2.1"), from("192.0.2.2")}, 3},
		{"an IPv6 host has a /64", 0, 1, []*fakeConn{from("2001:db8::1"), from("2001:db8::ffff:2"), from("2001:db8:0:1::1")}, 2},
		{"loopback and sockets", 0, 1, []*fakeConn{from("127.0.0.1"), from("127.0.0.1"), from("::1"), from("::1"), unix(), unix()}, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			under := &fakeListener{}
			for _, conn := range c.conns {
				under.next = append(under.next, conn)
			}
			l := newLimitedListener(under, c.all, c.each, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
			open := drain(t, l)
			if len(open) != c.accepted {
				t.Errorf("accepted %d, want %d", len(open), c.accepted)
			}
			shut := 0
			for _, conn := range c.conns {
				if conn.shut {
					shut++
				}
			}
			if shut != len(c.conns)-c.accepted {
				t.Errorf("%d are closed", shut)
			}
			for _, conn := range open { // twice, as net/http may
				conn.Close()
				conn.Close()
			}
			if l.total != 0 || len(l.addrs) != 0 {
				t.Errorf("left: %d, %v", l.total, l.addrs)
			}
		})
	}
}

// A connection beyond the limit is closed, and its place is free again later.
func TestServeLimitsConnections(t *testing.T) {
	cfg := settings(t)
	cfg.MaxConns = 2
	serve(t, cfg)
	dial := func() net.Conn {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", cfg.Address())
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	first, second := dial(), dial()
	defer second.Close()
	// That the two are accepted is seen by an answer.
	for _, c := range []net.Conn{first, second} {
		if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 64)); err != nil {
			t.Fatal(err)
		}
	}
	third := dial()
	defer third.Close()
	if _, err := third.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third: %v", err)
	}
	first.Close()
	c := &hyperfleet.Client{Host: "http://" + cfg.Address()}
	await(t, "its place is free", func() bool {
		defer c.CloseIdleConnections()
		_, err := c.Health(t.Context())
		return err == nil
	})
}

// Who does not say what they want is cut off.
func TestServeCutsSlowHeaders(t *testing.T) {
	cfg := settings(t)
	d, err := New(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.headerTimeout = 100 * time.Millisecond
	d.idleTimeout = 100 * time.Millisecond
	if err := d.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	for name, said := range map[string]string{
		"nothing":        "",
		"half a header":  "GET /health HTTP/1.1\r\nHost: local",
		"then nothing":   "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"half a request": "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea",
	} {
		c, err := new(net.Dialer).DialContext(t.Context(), "tcp", cfg.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, said); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: not cut off", name)
		}
	}
}
