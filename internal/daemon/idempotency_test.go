package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/config"
)

// A retry after a restart of the daemon gets the answer of the first request.
func TestIdempotencySurvivesARestart(t *testing.T) {
	cfg := settings(t)
	first, replayed := askOnce(t, cfg)
	if replayed != "" || !strings.Contains(first, "Machine not found") {
		t.Fatalf("first: %q, replayed %q", first, replayed)
	}
	again, replayed := askOnce(t, cfg)
	if replayed != "true" || again != first {
		t.Errorf("after a restart: %q, replayed %q, first %q", again, replayed, first)
	}
}

// askOnce makes one request, with the same key each time, of a daemon that
// lives as long.
func askOnce(t *testing.T, cfg config.Config) (body, replayed string) {
	t.Helper()
	d := newDaemon(t, cfg)
	if err := d.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	c := socketClient(cfg)
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/machines/nosuch/start", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", "k")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("%s %s, %v", resp.Status, raw, err)
	}
	return string(raw), resp.Header.Get("Idempotency-Replayed")
}

// socketClient speaks HTTP to the daemon's unix socket.
func socketClient(cfg config.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", cfg.Socket())
	}}}
}
