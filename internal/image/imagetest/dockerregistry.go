package imagetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Real is Debian's docker-registry on loopback, with TLS and Basic auth.
type Real struct {
	Host           string // host:port, to begin references with
	CAs            *x509.CertPool
	CertFile       string // what CAs holds, as PEM
	User, Password string
}

// DockerRegistry starts docker-registry with a certificate and an htpasswd file
// of its own. It ends with the test.
func DockerRegistry(tb testing.TB) *Real {
	tb.Helper()
	dir := tb.TempDir()
	r := &Real{Host: freeAddress(tb), CAs: x509.NewCertPool(), CertFile: filepath.Join(dir, "cert.pem"), User: "somebody", Password: rand.Text()}
	r.CAs.AppendCertsFromPEM(writeCertificate(tb, dir))
	passwords := Run(tb, "htpasswd", "-Bbn", r.User, r.Password)
	config := fmt.Sprintf(`version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: %[1]s/data}}
http: {addr: %[2]q, tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}}
auth: {htpasswd: {realm: test, path: %[1]s/htpasswd}}
`, dir, r.Host)
	writeFile(tb, filepath.Join(dir, "htpasswd"), []byte(passwords))
	writeFile(tb, filepath.Join(dir, "config.yml"), []byte(config))
	cmd := exec.Command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	cmd.Stderr = tb.Output()
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start docker-registry: %v", err)
	}
	tb.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			tb.Errorf("end docker-registry: %v", err)
		}
		_ = cmd.Wait() // says that it was killed
	})
	awaitAddress(tb, r.Host)
	return r
}

func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func awaitAddress(tb testing.TB, address string) {
	tb.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("docker-registry does not listen: %v", err)
		}
	}
}

// writeCertificate makes cert.pem and key.pem for loopback, and returns the
// certificate.
func writeCertificate(tb testing.TB, dir string) []byte {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "image test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	writeFile(tb, filepath.Join(dir, "cert.pem"), certPEM)
	writeFile(tb, filepath.Join(dir, "key.pem"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}))
	return certPEM
}

func writeFile(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
}
