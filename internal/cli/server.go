package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hyperfleet/hyperfleet"
)

// server is the daemon that a command talks to.
type server struct {
	context string // its name; "" for none
	because string // what chose it
	host    string // "" is hyperfleet.DefaultHost
	apiKey  string
	trust   *tls.Config // nil: the system's authorities
}

// withoutServer marks commands that talk to no daemon, or to one only by the
// way: what is said of servers may be wrong then.
var withoutServer = map[string]string{"server": "none"}

func needsServer(cmd *cobra.Command) bool {
	for ; cmd != nil; cmd = cmd.Parent() {
		switch cmd.Name() { // cobra's own
		case "help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd:
			return false
		}
		if cmd.Annotations["server"] == "none" {
			return false
		}
	}
	return true
}

// selectServer finds the daemon: what was said last and closest wins. A
// context's key goes to that context's host alone.
func (g *globals) selectServer() error {
	env := func(name string) string { return g.Getenv(name) }
	s := server{apiKey: env("HYPERFLEET_API_KEY")}
	switch run := env("HYPERFLEET_RUN_DIR"); {
	case g.host != "" && g.contextName != "":
		return errors.New("--host and --context both say where the daemon is: give one")
	case g.host != "":
		s.host, s.because = g.host, "--host"
	case g.contextName != "":
		s.context, s.because = g.contextName, "--context"
	case env("HYPERFLEET_HOST") != "":
		s.host, s.because = env("HYPERFLEET_HOST"), "HYPERFLEET_HOST"
	case env("HYPERFLEET_CONTEXT") != "":
		s.context, s.because = env("HYPERFLEET_CONTEXT"), "HYPERFLEET_CONTEXT"
	case run != "":
		s.host, s.because = "unix://"+run+"/api.sock", "HYPERFLEET_RUN_DIR"
	default:
		s.because = "the current context"
	}
	if s.host == "" {
		if err := g.applyContext(&s); err != nil {
			return err
		}
	}
	if err := g.readTrust(&s); err != nil {
		return err
	}
	g.server = s
	return nil
}

// applyContext fills s with what its context says, or the current one.
func (g *globals) applyContext(s *server) error {
	file, err := g.readContexts()
	if err != nil {
		return err
	}
	if s.context == "" {
		s.context = file.current()
	}
	c, err := file.find(s.context)
	if err != nil {
		return err
	}
	s.host = c.Host
	if c.APIKey != "" {
		s.apiKey = c.APIKey
	}
	if c.TLSCA != "" {
		s.trust, err = trusting([]byte(c.TLSCA), "the context "+s.context)
	}
	return err
}

// readTrust reads the file that --tls-ca or HYPERFLEET_TLS_CA names.
func (g *globals) readTrust(s *server) error {
	path := g.tlsCA
	if path == "" && s.trust == nil {
		path = g.Getenv("HYPERFLEET_TLS_CA")
	}
	if path == "" {
		return nil
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the daemon's certificate: %w", err)
	}
	s.trust, err = trusting(raw, path)
	return err
}

// trusting knows a daemon by the certificates in raw.
func trusting(raw []byte, from string) (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("read the daemon's certificate: %s holds no PEM certificate", from)
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

func (g *globals) client() *hyperfleet.Client {
	return &hyperfleet.Client{Host: g.server.host, APIKey: g.server.apiKey, TLS: g.server.trust}
}

// local reports whether the daemon would be on this host.
func (s server) local() bool { return s.host == "" || strings.HasPrefix(s.host, "unix:") }

// checkHost makes sure that a client can make something of host.
func checkHost(host string) error {
	u, err := url.Parse(host)
	switch {
	case err != nil:
		return fmt.Errorf("host %q: %w", host, err)
	case u.Scheme == "unix" && u.Host == "" && strings.HasPrefix(u.Path, "/"), (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		if u.User != nil {
			return errors.New("the host holds a password, which others can see: give a key with --api-key-file")
		}
		return nil
	}
	return fmt.Errorf("host %q: want unix:///path, http://host:port or https://host:port", host)
}

// inTheClear reports whether a key that goes to host can be read on the way.
func inTheClear(host string) bool {
	u, err := url.Parse(host)
	if err != nil || u.Scheme != "http" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())
}

// readContexts reads the user's contexts; where there is no file, or no place
// for one, there are none.
func (g *globals) readContexts() (contextFile, error) {
	path, err := g.contextPath()
	if err != nil {
		return contextFile{}, nil
	}
	file, err := loadContexts(path)
	if errors.Is(err, fs.ErrNotExist) {
		return contextFile{}, nil
	}
	return file, err
}
