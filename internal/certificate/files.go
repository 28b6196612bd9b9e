package certificate

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// lookEvery is how old the last look at the files may be.
	lookEvery = time.Second
	// maxFile bounds a file of a pair, in bytes: a chain of a dozen
	// certificates has about 20 KiB.
	maxFile = 1 << 20
)

// Files is a certificate that lies in two PEM files. It is safe for concurrent
// use.
type Files struct {
	cert, key string
	log       *slog.Logger

	mu     sync.Mutex
	pair   *tls.Certificate
	seen   stamps // of the files that pair was made of
	broken bool   // what is there now cannot be used
	failed stamps // of what was told to be broken
	looked time.Time
}

// stamps tell one content of the two files from another, without reading them.
// The zero value is that of files that are not there.
type stamps [2]os.FileInfo

func (s stamps) same(o stamps) bool {
	for i, a := range s {
		b := o[i]
		if a == nil || b == nil {
			if a != b {
				return false
			}
			continue
		}
		if !os.SameFile(a, b) || a.Size() != b.Size() || !a.ModTime().Equal(b.ModTime()) {
			return false
		}
	}
	return true
}

// Open reads a pair of PEM files; the certificate's may hold a chain.
func Open(cert, key string, log *slog.Logger) (*Files, error) {
	f := &Files{cert: cert, key: key, log: log, looked: time.Now()}
	seen, err := f.look()
	if err == nil {
		f.pair, err = readPair(cert, key)
	}
	if err != nil {
		return nil, fmt.Errorf("read the TLS certificate: %w", err)
	}
	f.seen = seen
	f.tell()
	return f, nil
}

// Get is for tls.Config.GetCertificate.
func (f *Files) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Sub(f.looked) >= lookEvery {
		f.looked = now
		f.reload()
	}
	return f.pair, nil
}

// Fingerprint is the SHA-256 of the certificate in use.
func (f *Files) Fingerprint() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Fingerprint(f.pair.Leaf)
}

// reload needs mu. The stamps are taken before the files are read: a file that
// changes in between has another one at the next look.
func (f *Files) reload() {
	now, err := f.look()
	if err == nil && now.same(f.seen) {
		return
	}
	var pair *tls.Certificate
	if err == nil {
		pair, err = readPair(f.cert, f.key)
	}
	if err != nil {
		if !f.broken || !now.same(f.failed) {
			f.log.Error("the TLS certificate cannot be read again; the last good one stays in use", "err", err)
		}
		f.failed, f.broken = now, true
		return
	}
	f.pair, f.seen, f.broken = pair, now, false
	f.tell()
}

func (f *Files) tell() {
	f.log.Info("certificate read", "file", f.cert, "fingerprint", Fingerprint(f.pair.Leaf), "expires", f.pair.Leaf.NotAfter)
}

func (f *Files) look() (s stamps, err error) {
	for i, path := range []string{f.cert, f.key} {
		if s[i], err = os.Stat(path); err != nil { // of what a link leads to
			return stamps{}, err
		}
	}
	return s, nil
}

func readPair(cert, key string) (*tls.Certificate, error) {
	certPEM, err := readFile(cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readFile(key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", cert, key, err)
	}
	return &pair, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(raw) > maxFile {
		err = errors.New("too large for a certificate or key")
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return raw, nil
}

// Fingerprint is the SHA-256 of a certificate as people compare it:
// "AB:CD:...", as "openssl x509 -fingerprint -sha256" prints it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	pairs := make([]string, len(sum))
	for i, b := range sum {
		pairs[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(pairs, ":")
}
