package certificate

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	// authorityValidity is how long clients can trust what they were given.
	authorityValidity = 10 * 365 * 24 * time.Hour
	// validity of the listener's own certificate. Current clients accept up to
	// 825 days (Apple's).
	validity = 90 * 24 * time.Hour
	// renewBefore is how long before its end a certificate is renewed.
	renewBefore = 30 * 24 * time.Hour
	// backdate is for clients whose clock is behind ours.
	backdate = time.Hour
)

// SelfSigned is a certificate that is made here: an authority, which stays and
// which clients are given to trust, and below it the listener's certificate,
// which is in memory only and renewed in time. It is safe for concurrent use.
type SelfSigned struct {
	dir   string
	names []string
	addrs []net.IP
	log   *slog.Logger
	now   func() time.Time

	mu        sync.Mutex
	authority *tls.Certificate
	pair      *tls.Certificate
}

// OpenSelfSigned makes or reads the authority in dir, which must exist and be
// open to nobody else: ca.crt, for clients, and ca.key (mode 0600). What it
// signs is valid for names and addrs, beside "localhost" and the loopback's
// addresses.
func OpenSelfSigned(dir string, names []string, addrs []net.IP, log *slog.Logger) (*SelfSigned, error) {
	s := &SelfSigned{
		dir: dir, log: log, now: time.Now,
		names: append([]string{"localhost"}, names...),
		addrs: append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, addrs...),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	s.authority, err = readPair(s.CertFile(), s.keyFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = s.makeAuthority()
	case err != nil: // not ours to replace: clients trust it
		err = fmt.Errorf("%w: remove both files to have new ones made", err)
	}
	if err == nil {
		err = s.renew()
	}
	return s, err
}

// CertFile is what clients are given to trust.
func (s *SelfSigned) CertFile() string { return filepath.Join(s.dir, "ca.crt") }

func (s *SelfSigned) keyFile() string { return filepath.Join(s.dir, "ca.key") }

// Get is for tls.Config.GetCertificate. It renews the certificate when its time
// has come; one that cannot be renewed is used to its end.
func (s *SelfSigned) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.fresh(s.pair) {
		if err := s.renew(); err != nil {
			s.log.Error("renew the self-signed certificate", "err", err)
		}
	}
	return s.pair, nil
}

// Fingerprint is the SHA-256 of the authority that clients trust.
func (s *SelfSigned) Fingerprint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Fingerprint(s.authority.Leaf)
}

func (s *SelfSigned) fresh(c *tls.Certificate) bool {
	return s.now().Before(c.Leaf.NotAfter.Add(-renewBefore))
}

// renew needs mu.
func (s *SelfSigned) renew() error {
	if !s.fresh(s.authority) {
		if err := s.makeAuthority(); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	template := s.template("Hyperfleet API", validity)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames, template.IPAddresses = s.names, s.addrs
	pair, err := sign(template, key, s.authority.Leaf, s.authority.PrivateKey)
	if err != nil {
		return err
	}
	pair.Certificate = append(pair.Certificate, s.authority.Certificate[0])
	s.pair = pair
	return nil
}

// makeAuthority needs mu. The key is written first: what is left without its
// certificate is made again.
func (s *SelfSigned) makeAuthority() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	template := s.template("Hyperfleet on "+host, authorityValidity)
	template.KeyUsage = x509.KeyUsageCertSign
	template.BasicConstraintsValid, template.IsCA, template.MaxPathLenZero = true, true, true
	pair, err := sign(template, key, template, key)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode a key: %w", err)
	}
	if err := writeFile(s.keyFile(), 0o600, "PRIVATE KEY", der); err != nil {
		return err
	}
	if err := writeFile(s.CertFile(), 0o644, "CERTIFICATE", pair.Certificate[0]); err != nil {
		return err
	}
	s.authority = pair
	s.log.Info("self-signed certificate made", "file", s.CertFile())
	return nil
}

func (s *SelfSigned) template(name string, valid time.Duration) *x509.Certificate {
	now := s.now()
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(valid),
	}
}

// sign makes the certificate of key, with a serial number of its own.
func sign(template *x509.Certificate, key *ecdsa.PrivateKey, parent *x509.Certificate, parentKey crypto.PrivateKey) (*tls.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("make a self-signed certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make a self-signed certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// writeFile replaces a file as a whole, durably.
func writeFile(path string, mode os.FileMode, kind string, der []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(f.Name()))
		}
	}()
	defer f.Close()
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}); err != nil {
		return err
	}
	if _, err := f.Write(b.Bytes()); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
