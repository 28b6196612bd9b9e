package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/config"
)

// foreign is an address of this host that is not 127.0.0.1: Linux routes the
// whole of 127.0.0.0/8 to the loopback, yet a port that is bound to 127.0.0.1
// does not answer on it.
const foreign = "127.0.0.2"

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// serveLogged runs a daemon until the end of the test or the call of what it returns.
func serveLogged(t *testing.T, cfg config.Config, log io.Writer) (*Daemon, func()) {
	t.Helper()
	d, err := New(t.Context(), cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Listen(t.Context()); err != nil {
		t.Fatal(errors.Join(err, d.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	end := sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	return d, end
}

// client talks to the daemon's port on an address, as a new connection.
func client(t *testing.T, cfg config.Config, ip, key string) *hyperfleet.Client {
	c := &hyperfleet.Client{Host: fmt.Sprintf("http://%s:%d", ip, cfg.Port), APIKey: key, Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// Without a key the port is on the loopback and says so; the first key opens it
// at once, and a daemon that has one opens it at its start.
func TestPortOpensWithTheFirstKey(t *testing.T) {
	cfg := settings(t)
	var log logBuffer
	_, end := serveLogged(t, cfg, &log)
	if _, err := client(t, cfg, foreign, "").Health(t.Context()); !errors.Is(err, hyperfleet.ErrNoDaemon) {
		t.Fatalf("open without a key: %v", err)
	}
	if _, err := client(t, cfg, "127.0.0.1", "").Health(t.Context()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), `hyperfleet key create`) {
		t.Errorf("no hint in the log:\n%s", log.String())
	}
	// A connection from before the first key lives through the move.
	old := &hyperfleet.Client{Host: "http://" + cfg.LoopbackAddress(), Transport: &http.Transport{MaxConnsPerHost: 1}}
	defer old.CloseIdleConnections()
	if _, err := old.Health(t.Context()); err != nil {
		t.Fatal(err)
	}
	local := &hyperfleet.Client{Host: "unix://" + cfg.Socket()}
	defer local.CloseIdleConnections()
	key, err := local.CreateKey(t.Context(), hyperfleet.CreateKeyRequest{Name: "first"})
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range []string{foreign, "127.0.0.1"} {
		if _, err := client(t, cfg, ip, key.Secret).ListMachines(t.Context(), hyperfleet.ListOptions{}); err != nil {
			t.Errorf("%s with the first key: %v", ip, err)
		}
		if _, err := client(t, cfg, ip, "").ListMachines(t.Context(), hyperfleet.ListOptions{}); !errors.Is(err, hyperfleet.ErrUnauthorized) {
			t.Errorf("%s without it: %v", ip, err)
		}
	}
	if _, err := old.Health(t.Context()); err != nil {
		t.Errorf("the connection from before: %v", err)
	}
	end()
	if text := log.String(); strings.Contains(text, key.Secret) || strings.Contains(text, auth.Secret(key.Secret).Hash().String()) {
		t.Error("the key is in the log")
	}

	_, end = serveLogged(t, cfg, &log)
	again := client(t, cfg, foreign, key.Secret)
	if got, err := again.Key(t.Context(), key.ID); err != nil || got.Name != "first" || got.LastUsedAt == nil {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	if err := again.RevokeKey(t.Context(), key.ID); err != nil {
		t.Error(err)
	}
	if _, err := again.Key(t.Context(), key.ID); !errors.Is(err, hyperfleet.ErrUnauthorized) {
		t.Errorf("after it was revoked: %v", err)
	}
	end()

	serveLogged(t, cfg, &log)
	if _, err := client(t, cfg, foreign, "").Health(t.Context()); !errors.Is(err, hyperfleet.ErrNoDaemon) {
		t.Errorf("open with a revoked key only: %v", err)
	}
}

func TestListenLimitsThePort(t *testing.T) {
	for _, c := range []struct {
		name        string
		change      func(*config.Config)
		open        bool // on the foreign address
		needsNoKey  bool
		foreignHost int // status for a Host that is not the loopback's
	}{
		{"an address of its own, no key", func(c *config.Config) { c.Listen = foreign }, true, false, 200},
		{"without authentication", func(c *config.Config) { c.DisableAuth = "true" }, true, true, 200},
		{"without authentication, on the loopback", func(c *config.Config) { c.DisableAuth, c.Listen = "true", "127.0.0.1" }, false, true, 421},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := settings(t)
			c.change(&cfg)
			serveLogged(t, cfg, t.Output())
			_, err := client(t, cfg, foreign, "").Health(t.Context())
			if (err == nil) != c.open {
				t.Errorf("on %s: %v", foreign, err)
			}
			ip, _, err := net.SplitHostPort(cfg.LoopbackAddress())
			if err != nil {
				t.Fatal(err)
			}
			_, err = client(t, cfg, ip, "").ListMachines(t.Context(), hyperfleet.ListOptions{})
			if (err == nil) != c.needsNoKey {
				t.Errorf("without a key: %v", err)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.LoopbackAddress()+"/health", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host = "evil.test"
			resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.foreignHost {
				t.Errorf("Host evil.test: %d, want %d", resp.StatusCode, c.foreignHost)
			}
		})
	}
}

// A port that cannot be opened where it should be stays where it was.
func TestPortStaysWhereItCan(t *testing.T) {
	p, err := listenPort(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = p.Addr().String()
	taken, err := net.Listen("tcp", "127.0.0.2:"+strings.TrimPrefix(p.address, "127.0.0.1:"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := p.move(t.Context(), taken.Addr().String()); err == nil {
		t.Error("moved onto a port that is taken")
	}
	accepted := make(chan error, 1)
	go func() {
		conn, err := p.Accept()
		if err == nil {
			conn.Close()
		}
		accepted <- err
	}()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.move(t.Context(), "127.0.0.1:1"); err != nil {
		t.Errorf("after Close: %v", err)
	}
	if _, err := p.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestPortMovesUnderAccept(t *testing.T) {
	p, err := listenPort(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	accepted := make(chan string)
	go func() {
		defer close(accepted)
		for {
			conn, err := p.Accept()
			if err != nil {
				return
			}
			accepted <- conn.LocalAddr().String()
			conn.Close()
		}
	}()
	for i := range 20 {
		if err := p.move(t.Context(), fmt.Sprintf("127.0.0.%d:0", 2+i)); err != nil {
			t.Fatal(err)
		}
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", p.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := <-accepted; got != conn.RemoteAddr().String() {
			t.Errorf("accepted on %s, dialed %s", got, conn.RemoteAddr())
		}
		conn.Close()
	}
	p.Close()
	for range accepted {
		t.Error("a connection that nobody made")
	}
}
