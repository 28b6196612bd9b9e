package daemon

import (
	"crypto/tls"
	"net"
	"os"

	"github.com/hyperfleet/hyperfleet/internal/certificate"
)

// tlsConfig is that of the TCP listener; nil for plain HTTP.
func (d *Daemon) tlsConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	switch {
	case d.cfg.TLSSelfSigned:
		own, err := d.ownCertificate()
		if err != nil {
			return nil, err
		}
		d.log.Info("clients trust this API's certificate by a file (--tls-ca)", "file", own.CertFile(), "fingerprint", own.Fingerprint())
		c.GetCertificate = own.Get
	case d.cfg.TLSCert != "":
		files, err := certificate.Open(d.cfg.TLSCert, d.cfg.TLSKey, d.log)
		if err != nil {
			return nil, err
		}
		c.GetCertificate = files.Get
	default:
		return nil, nil
	}
	return c, nil
}

// ownCertificate is for every name and address that this host has now.
func (d *Daemon) ownCertificate() (*certificate.SelfSigned, error) {
	if err := makeDir(d.cfg.TLSDir(), 0o700); err != nil {
		return nil, err
	}
	var names []string
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	var addrs []net.IP
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() {
				addrs = append(addrs, n.IP)
			}
		}
	}
	return certificate.OpenSelfSigned(d.cfg.TLSDir(), names, addrs, d.log)
}
