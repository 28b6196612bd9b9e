package registry

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

var blob = manifest.Descriptor{Digest: manifest.Of([]byte("content")), Size: int64(len("content"))}

// internetRegistry is a registry that is on the internet as far as a Client can
// tell: a proxy leads to it, as https://example.com, which is whom the
// certificate of package httptest is for.
func internetRegistry(t *testing.T, handler http.Handler) Options {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodConnect {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		tunnel(t, w, server.Listener.Addr())
	}))
	t.Cleanup(proxy.Close)
	address, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	opts := Options{Proxy: http.ProxyURL(address), RootCAs: x509.NewCertPool(), StallTimeout: 5 * time.Second, RetryPause: time.Millisecond}
	opts.RootCAs.AddCert(server.Certificate())
	return opts
}

func tunnel(t *testing.T, w http.ResponseWriter, to net.Addr) {
	far, err := new(net.Dialer).DialContext(t.Context(), to.Network(), to.String())
	if err != nil {
		t.Error(err)
		return
	}
	near, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	io.WriteString(near, "HTTP/1.1 200 Connected\r\n\r\n")
	go func() {
		defer near.Close()
		io.Copy(near, far)
	}()
	defer far.Close()
	io.Copy(far, near)
}

// TestClientStaysOutside pulls from a registry of the internet whose redirects,
// or whose token server, lead to a service of this host.
func TestClientStaysOutside(t *testing.T) {
	var reached atomic.Int32
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) }))
	defer inside.Close()
	secret := httptest.NewTLSServer(inside.Config.Handler)
	defer secret.Close()
	for _, target := range []string{
		inside.URL, secret.URL, strings.Replace(secret.URL, "127.0.0.1", "localhost", 1),
		"http://169.254.169.254/latest", "https://169.254.169.254/latest", "https://10.0.0.1/",
	} {
		opts := internetRegistry(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				http.Redirect(w, req, target+"/x", http.StatusTemporaryRedirect)
			}
		}))
		repo, err := newClient(t, opts).Open(t.Context(), "example.com", "a/b", nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := repo.Fetch(t.Context(), blob, 0, io.Discard); errdefs.CodeOf(err) != "REGISTRY_UNAVAILABLE" {
			t.Errorf("redirect to %s: %v", target, err)
		}

		opts = internetRegistry(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s"`, target))
			w.WriteHeader(http.StatusUnauthorized)
		}))
		login := &machine.RegistryAuth{Username: "u", Password: "p"}
		if _, err := newClient(t, opts).Open(t.Context(), "example.com", "a/b", login); errdefs.CodeOf(err) != "REGISTRY_UNAVAILABLE" {
			t.Errorf("token server at %s: %v", target, err)
		}
	}
	if n := reached.Load(); n > 0 {
		t.Errorf("services of this host were asked %d times", n)
	}
}

// TestClientKeepsToken gives login and token to the registry and its token
// server only.
func TestClientKeepsToken(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("another host was sent the token")
		}
		io.WriteString(w, "content")
	}))
	defer elsewhere.Close()
	var registry *httptest.Server
	registry = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch user, password, _ := req.BasicAuth(); {
		case req.URL.Path == "/token" && user == "u" && password == "p":
			io.WriteString(w, `{"token":"t0k3n"}`)
		case req.Header.Get("Authorization") != "Bearer t0k3n":
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s"`, registry.URL))
			w.WriteHeader(http.StatusUnauthorized)
		case strings.Contains(req.URL.Path, "/blobs/"):
			http.Redirect(w, req, elsewhere.URL, http.StatusTemporaryRedirect)
		}
	}))
	defer registry.Close()
	c := newClient(t, Options{RetryPause: time.Millisecond})
	host := strings.TrimPrefix(registry.URL, "http://")
	repo, err := c.Open(t.Context(), host, "a/b", &machine.RegistryAuth{Username: "u", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := repo.Fetch(t.Context(), blob, 0, &got); err != nil || got.String() != "content" {
		t.Errorf("got %q, %v", &got, err)
	}
	if _, err := c.Open(t.Context(), host, "a/b", nil); errdefs.CodeOf(err) != "REGISTRY_UNAUTHORIZED" {
		t.Errorf("without login: %v", err)
	}
}
