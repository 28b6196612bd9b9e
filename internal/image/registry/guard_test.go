package registry

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"testing"
)

func newClient(t *testing.T, opts Options) *Client {
	t.Helper()
	c := New(opts)
	t.Cleanup(c.Close)
	return c
}

func TestPlainHTTP(t *testing.T) {
	c := newClient(t, Options{Insecure: []string{"listed.example:5000", "10.1.2.3"}})
	for host, want := range map[string]bool{
		"anything.example":      false,
		"listed.example:5000":   true,
		"listed.example":        false,
		"10.1.2.3:80":           true,
		"10.1.2.4":              false,
		"localhost:5000":        true,
		"127.1.2.3":             true,
		"[::1]:5000":            true,
		"[::ffff:127.0.0.1]":    true,
		"localhost.example":     false,
		"127.0.0.1.example.com": false,
	} {
		if got := c.plainHTTP(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

// TestGuard makes requests to a server on this host, for registries at
// different places.
func TestGuard(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	defer secure.Close()
	c := newClient(t, Options{Insecure: []string{"listed.example"}})
	for _, tc := range []struct {
		home, url string
		want      bool
	}{
		{"127.0.0.1:1", server.URL, true},
		{"localhost", server.URL, true},
		{"listed.example", server.URL, true},
		{server.Listener.Addr().String(), server.URL, true},
		{"hub.example", server.URL, false},
		{"hub.example", secure.URL, false},
		{"10.0.0.1", server.URL, false},
		{"hub.example", "http://hub.example/", false},
		{"hub.example", "http://192.0.2.1/", false},
		{"hub.example", "https://10.0.0.1/", false},
		{"hub.example", "https://[fd00::1]/", false},
		{"hub.example", "https://169.254.169.254/", false},
		{"127.0.0.1:1", "https://169.254.169.254/", false},
		{"hub.example", "https://localhost/", false},
		{"hub.example", "ftp://hub.example/", false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, tc.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := newGuard(c, tc.home).RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if got := err == nil; got != tc.want {
			t.Errorf("registry %s leads to %s: %v", tc.home, tc.url, err)
		}
		if err != nil && !errors.Is(err, errRefused) {
			t.Errorf("registry %s leads to %s: %v", tc.home, tc.url, err)
		}
	}
}

// TestGuardDials refuses a name that resolves to this host: only the dialer
// sees that.
func TestGuardDials(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	c := newClient(t, Options{})
	for r, want := range map[reach]bool{internet: false, site: false, anywhere: true} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.ways[r].RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if got := err == nil; got != want || err != nil && !errors.Is(err, errRefused) {
			t.Errorf("reach %d: %v", r, err)
		}
	}
}

// remote is a connection to an address.
type remote struct {
	net.Conn
	address net.TCPAddr
}

func (r remote) RemoteAddr() net.Addr { return &r.address }

// TestGuardLearns lets a registry that was met in a private network lead to
// others there, and no registry to this host.
func TestGuardLearns(t *testing.T) {
	c := newClient(t, Options{})
	for address, want := range map[string]reach{"10.0.0.1": site, "fd00::1": site, "192.0.2.1": internet, "127.0.0.1": internet} {
		g := newGuard(c, "registry.example")
		for scheme, want := range map[string]reach{"http": internet, "https": want} {
			g.reach.Store(int32(internet))
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, scheme+"://registry.example/v2/", nil)
			if err != nil {
				t.Fatal(err)
			}
			if trace := httptrace.ContextClientTrace(g.learn(req).Context()); trace != nil {
				trace.GotConn(httptrace.GotConnInfo{Conn: remote{address: net.TCPAddr{IP: net.ParseIP(address)}}})
			}
			if got := reach(g.reach.Load()); got != want {
				t.Errorf("registry at %s, %s: reach %d, want %d", address, scheme, got, want)
			}
		}
	}
}
