package daemon

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/certificate"
	"github.com/hyperfleet/hyperfleet/internal/config"
)

// serve runs a daemon until the test ends.
func serve(t *testing.T, cfg config.Config) { serveLogging(t, cfg, t.Output()) }

func serveLogging(t *testing.T, cfg config.Config, log io.Writer) {
	t.Helper()
	d, err := New(t.Context(), cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Listen(t.Context()); err != nil {
		t.Fatal(errors.Join(err, d.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// record is a log that can be read while it is written.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *record) has(s string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Contains(r.buf.String(), s)
}

func trust(t *testing.T, file string) *tls.Config {
	t.Helper()
	pem, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("%s holds no certificate", file)
	}
	return &tls.Config{RootCAs: pool}
}

func TestServeSelfSigned(t *testing.T) {
	cfg := settings(t)
	cfg.TLSSelfSigned = true
	serve(t, cfg)
	ca := filepath.Join(cfg.TLSDir(), "ca.crt")
	c := &hyperfleet.Client{Host: "https://" + cfg.LoopbackAddress(), TLS: trust(t, ca)}
	defer c.CloseIdleConnections()
	if h, err := c.Health(t.Context()); err != nil || h.Status != "ok" {
		t.Errorf("%+v, %v", h, err)
	}
	stranger := &hyperfleet.Client{Host: "https://" + cfg.LoopbackAddress()}
	defer stranger.CloseIdleConnections()
	if _, err := stranger.Health(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a client without trust: %v", err)
	}
	if info, err := os.Stat(filepath.Join(cfg.TLSDir(), "ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key %v, %v", info, err)
	}
	local := &hyperfleet.Client{Host: "unix://" + cfg.Socket()}
	defer local.CloseIdleConnections()
	if _, err := local.Health(t.Context()); err != nil {
		t.Errorf("the socket: %v", err)
	}
}

// Old protocol versions are refused; HTTP/2 is there for those who ask.
func TestTLSVersions(t *testing.T) {
	cfg := settings(t)
	cfg.TLSSelfSigned = true
	serve(t, cfg)
	ca := filepath.Join(cfg.TLSDir(), "ca.crt")
	old := trust(t, ca)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", cfg.LoopbackAddress()); err == nil {
		c.Close()
		t.Error("TLS 1.1 is accepted")
	}
	tr := &http.Transport{TLSClientConfig: trust(t, ca), ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+cfg.LoopbackAddress()+"/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.ProtoMajor != 2 || resp.StatusCode != 200 {
		t.Errorf("%s %s %s, %v", resp.Proto, resp.Status, body, err)
	}
}

// A replaced pair is in use without a restart; a broken one never is.
func TestTLSFilesAreReadAgain(t *testing.T) {
	newPair := func() (crt, key string) {
		dir := t.TempDir()
		if _, err := certificate.OpenSelfSigned(dir, nil, nil, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	}
	cfg := settings(t)
	cfg.TLSCert, cfg.TLSKey = newPair()
	var log record
	serveLogging(t, cfg, &log)
	first := peer(t, cfg)
	if err := os.WriteFile(cfg.TLSCert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the broken pair is told of", func() bool {
		if !bytes.Equal(peer(t, cfg), first) {
			t.Fatal("the pair changed to a broken one")
		}
		return log.has("cannot be read again")
	})
	crt, key := newPair()
	for from, to := range map[string]string{key: cfg.TLSKey, crt: cfg.TLSCert} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "the new pair is in use", func() bool { return !bytes.Equal(peer(t, cfg), first) })
}

// await waits for something to become so.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !so(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// peer is the certificate that a handshake shows.
func peer(t *testing.T, cfg config.Config) []byte {
	t.Helper()
	// What is looked at is which certificate comes, not whether it is good.
	d := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: &tls.Config{InsecureSkipVerify: true}}
	c, err := d.DialContext(t.Context(), "tcp", cfg.LoopbackAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw
}

func TestTLSWithoutItsFiles(t *testing.T) {
	cfg := settings(t)
	cfg.TLSCert, cfg.TLSKey = "/nowhere/tls.crt", "/nowhere/tls.key"
	d := newDaemon(t, cfg)
	if err := d.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "/nowhere/tls.crt") {
		t.Errorf("listen: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
