package registry

import (
	"errors"
	"net/http"
	"net/url"
	"testing"
)

func request(raw string) *http.Request {
	u, err := url.Parse(raw)
	if err != nil {
		panic(err)
	}
	return &http.Request{URL: u}
}

type accepting struct{}

func (accepting) RoundTrip(*http.Request) (*http.Response, error) { return &http.Response{}, nil }

func TestGuard(t *testing.T) {
	c := New(Options{Insecure: []string{"listed.example:5000", "10.1.2.3"}})
	defer c.Close()
	g := &guard{inner: accepting{}, plain: c.plainHTTP}
	for raw, want := range map[string]bool{
		"https://anything.example/":    true,
		"http://anything.example/":     false,
		"http://listed.example:5000/":  true,
		"http://listed.example/":       false,
		"http://10.1.2.3:80/":          true,
		"http://10.1.2.4/":             false,
		"http://localhost:5000/":       true,
		"http://127.1.2.3/":            true,
		"http://[::1]:5000/":           true,
		"http://[::ffff:127.0.0.1]/":   true,
		"http://localhost.example/":    false,
		"http://127.0.0.1.example.com": false,
		"ftp://anything.example/":      false,
	} {
		_, err := g.RoundTrip(request(raw))
		if got := err == nil; got != want {
			t.Errorf("%s: %v", raw, err)
		}
		if err != nil && !errors.Is(err, errRefused) {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func TestCheckRedirect(t *testing.T) {
	for _, tc := range []struct {
		from, to string
		want     bool
	}{
		{"https://hub.example/a", "https://cdn.example/b", true},
		{"https://hub.example/a", "https://169.254.169.254/latest", false},
		{"https://hub.example/a", "https://10.0.0.1/b", false},
		{"https://hub.example/a", "https://127.0.0.1/b", false},
		{"https://hub.example/a", "https://[::1]/b", false},
		{"https://10.0.0.1/a", "https://10.0.0.2/b", true},
		{"https://127.0.0.1/a", "https://localhost/b", true},
	} {
		err := checkRedirect(request(tc.to), []*http.Request{request(tc.from)})
		if got := err == nil; got != tc.want {
			t.Errorf("%s to %s: %v", tc.from, tc.to, err)
		}
	}
}

func TestRefuseLinkLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"169.254.169.254:80": false, "[fe80::1]:80": false, "[::ffff:169.254.169.254]:80": false,
		"192.0.2.1:443": true, "127.0.0.1:5000": true,
	} {
		if err := refuseLinkLocal(t.Context(), "tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}
