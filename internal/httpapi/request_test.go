package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
)

// counted remembers what it was told.
type counted struct {
	mu   sync.Mutex
	seen []string
}

func (c *counted) RequestEnded(method, route string, status int, _ time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = append(c.seen, fmt.Sprintf("%s %s %d", method, route, status))
}

// take returns what was told since the last call, once it is as wanted.
func (c *counted) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := c.seen
	c.seen = nil
	return seen
}

// Requests are told of by the pattern of their operation, never by their path:
// whoever counts them needs few names.
func TestObserverGetsPatterns(t *testing.T) {
	var seen counted
	a := newAPI(t, func(c *Config) { c.Observer = &seen })
	m := a.running()
	seen.take()
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/machines/" + m.ID, "GET /machines/{id} 200"},
		{"GET", "/api/v1/machines/" + m.ID + "/", "GET /machines/{id} 200"},
		{"GET", "/machines/nosuch", "GET /machines/{id} 404"},
		{"GET", "/nowhere", "GET  404"},
		{"PUT", "/machines/" + m.ID, "PUT  405"},
		{"DELETE", "/machines/" + m.ID, "DELETE /machines/{id} 204"},
	} {
		a.ask(c.method, c.path, "")
		// The answer may be here before the handler has returned.
		if got := seen.one(t); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, got, c.want)
		}
	}
	r := httptest.NewRequest("GET", "/health", nil)
	r.Host = "evil.test"
	a.server.LoopbackHandler().ServeHTTP(httptest.NewRecorder(), r)
	if got := seen.take(); !slices.Equal(got, []string{"GET  421"}) {
		t.Errorf("a foreign host: %q", got)
	}
}

// one is the next request that is told of.
func (c *counted) one(t *testing.T) (got string) {
	t.Helper()
	await(t, "a request is told of", func() bool {
		all := c.take()
		if len(all) > 0 {
			got = strings.Join(all, ", ")
		}
		return len(all) > 0
	})
	return got
}

func TestObserverOfCutAndUpgradedRequests(t *testing.T) {
	var seen counted
	a := newAPI(t, func(c *Config) { c.Observer = &seen })
	cut := a.server.observe(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	func() {
		defer func() { recover() }()
		cut.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	}()
	a.server.observe(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
	if got := seen.take(); !slices.Equal(got, []string{"GET  0", "POST  200"}) {
		t.Errorf("cut, and empty: %q", got)
	}
	m := a.running()
	seen.take()
	res, err := a.ExecStream(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"echo", "x"}}, hyperfleet.ExecIO{})
	if err != nil || res.ExitCode != 0 {
		t.Fatalf("%+v, %v", res, err)
	}
	if got := seen.one(t); got != "POST /machines/{id}/exec 101" {
		t.Errorf("a streamed command: %q", got)
	}
}

// Every line that a request causes carries its id, and the machine's.
func TestRequestLog(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(&syncWriter{w: &buf}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var seen counted
	a := newAPI(t, func(c *Config) {
		c.Log, c.Observer = log, &seen
		c.Ready = func(context.Context) error { return context.DeadlineExceeded }
	})
	m := a.running()
	for _, c := range []struct {
		method, path string
		want         []string
	}{
		{"POST", "/machines/" + m.ID + "/stop", []string{"level=INFO msg=request req=r-1 machine=" + m.ID + " caller=local method=POST path=/machines/" + m.ID + "/stop route=/machines/{id}/stop status=200"}},
		{"GET", "/machines", []string{"level=DEBUG msg=request req=r-1 caller=local method=GET path=/machines route=/machines status=200"}},
		{"GET", "/machines/nosuch", []string{"level=DEBUG msg=request req=r-1 machine=nosuch caller=local method=GET"}},
		{"GET", "/ready", []string{`level=ERROR msg="request failed" req=r-1 err=`, "level=WARN msg=request req=r-1 method=GET path=/ready route=/ready status=500"}},
	} {
		seen.take()
		a.ask(c.method, c.path, "", headerRequestID, "r-1")
		seen.one(t) // which happens after its line is written
		text := buf.String()
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("%s %s: no line %q in\n%s", c.method, c.path, want, text)
			}
		}
		buf.Reset()
	}
}

// syncWriter is a writer for several goroutines.
type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
