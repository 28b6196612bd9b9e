package certificate

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pairFiles makes a new pair in dir and returns its files.
func pairFiles(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	s, err := OpenSelfSigned(t.TempDir(), nil, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	replace(t, s.CertFile(), cert)
	replace(t, s.keyFile(), key)
	return cert, key
}

func replace(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// served is the certificate that a handshake gets a look later.
func served(t *testing.T, f *Files) string {
	t.Helper()
	time.Sleep(lookEvery) // the bubble's time
	pair, err := f.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return Fingerprint(pair.Leaf)
}

func TestFilesAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, next := t.TempDir(), t.TempDir()
		cert, key := pairFiles(t, dir)
		var log bytes.Buffer
		f, err := Open(cert, key, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		first := served(t, f)
		newCert, newKey := pairFiles(t, next)

		// Half of a replacement: the old pair stays, and is told of once.
		replace(t, newCert, cert)
		for range 3 {
			if served(t, f) != first {
				t.Fatal("a certificate without its key is in use")
			}
		}
		if n := strings.Count(log.String(), "cannot be read again"); n != 1 {
			t.Errorf("told %d times:\n%s", n, &log)
		}
		replace(t, newKey, key)
		second := served(t, f)
		if second == first || second != f.Fingerprint() {
			t.Errorf("the new pair is not in use: %s, then %s", first, second)
		}
		// Files that are gone, and then back, broken in another way.
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		if served(t, f) != second {
			t.Error("a missing key ended the service")
		}
		if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		if served(t, f) != second {
			t.Error("a broken key ended the service")
		}
		if n := strings.Count(log.String(), "cannot be read again"); n != 3 {
			t.Errorf("told %d times:\n%s", n, &log)
		}
	})
}

func TestOpenRefusesBrokenFiles(t *testing.T) {
	dir := t.TempDir()
	cert, key := pairFiles(t, dir)
	other, _ := pairFiles(t, t.TempDir())
	large := filepath.Join(dir, "large")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string][2]string{
		"no certificate": {filepath.Join(dir, "none"), key},
		"no key":         {cert, filepath.Join(dir, "none")},
		"another's key":  {other, key},
		"swapped":        {key, cert},
		"huge":           {cert, large},
	} {
		if _, err := Open(files[0], files[1], slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}

func openSelfSigned(t *testing.T, dir string, names ...string) *SelfSigned {
	t.Helper()
	s, err := OpenSelfSigned(dir, names, []net.IP{net.IPv4(192, 0, 2, 7)}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSelfSignedIsKept(t *testing.T) {
	dir := t.TempDir()
	s := openSelfSigned(t, dir, "host.test")
	if again := openSelfSigned(t, dir, "other.test"); again.Fingerprint() != s.Fingerprint() {
		t.Error("what clients trust was made again")
	}
	if info, err := os.Stat(s.keyFile()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
	// A daemon that died after it had written the key.
	if err := os.Remove(s.CertFile()); err != nil {
		t.Fatal(err)
	}
	openSelfSigned(t, dir)
}

// A client that was given the file once accepts every certificate after it.
func TestSelfSignedIsRenewed(t *testing.T) {
	s := openSelfSigned(t, t.TempDir(), "host.test")
	trust := x509.NewCertPool()
	raw, err := os.ReadFile(s.CertFile())
	if err != nil || !trust.AppendCertsFromPEM(raw) {
		t.Fatalf("the file for clients: %v", err)
	}
	first, fingerprint := mustGet(t, s), s.Fingerprint()
	if mustGet(t, s) != first {
		t.Error("renewed without need")
	}
	now := time.Now().Add(validity - renewBefore + time.Minute)
	s.now = func() time.Time { return now }
	second := mustGet(t, s)
	if second == first || !s.fresh(second) || s.Fingerprint() != fingerprint {
		t.Fatalf("not renewed: expires %v", second.Leaf.NotAfter)
	}
	for _, name := range []string{"localhost", "host.test", "127.0.0.1", "[::1]", "192.0.2.7"} {
		for _, c := range []*tls.Certificate{first, second} {
			if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: trust, DNSName: name, CurrentTime: now}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	now = now.Add(authorityValidity)
	if mustGet(t, s); s.Fingerprint() == fingerprint {
		t.Error("the authority has ended and was not renewed")
	}
}

func mustGet(t *testing.T, s *SelfSigned) *tls.Certificate {
	t.Helper()
	c, err := s.Get(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The damaged key is told of, never replaced: clients trust it.
func TestSelfSignedKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	s := openSelfSigned(t, dir)
	if err := os.WriteFile(s.keyFile(), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSelfSigned(dir, nil, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), s.keyFile()) {
		t.Errorf("error %v", err)
	}
}

// The handshake of the standard library takes what Get returns.
func TestSelfSignedHandshake(t *testing.T) {
	s := openSelfSigned(t, t.TempDir())
	trust := x509.NewCertPool()
	trust.AddCert(s.authority.Leaf)
	client, server := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(server, &tls.Config{GetCertificate: s.Get}).HandshakeContext(t.Context())
	}()
	if err := tls.Client(client, &tls.Config{RootCAs: trust, ServerName: "localhost"}).HandshakeContext(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
