// Package registry reads images from container registries that speak the OCI
// distribution protocol (Docker's HTTP API V2).
//
// It adds to go-containerregistry's handshakes (Basic, token server,
// credential helpers) what a daemon needs against registries that are slow,
// broken or hostile: bounded answers, bounded retries with growing pauses, a
// deadline for standing still, downloads that go on where they were cut, no
// plain HTTP but where it is allowed, no redirect and no token server that
// leads from a registry of the internet into the host's own networks.
//
// What is not here: what the documents mean (package manifest), checking the
// digest of a layer (package layer does it while the bytes pass), storing.
//
// Errors are of package errdefs: IMAGE_NOT_FOUND, REGISTRY_UNAUTHORIZED,
// REGISTRY_UNAVAILABLE, REGISTRY_RATE_LIMITED, IMAGE_CORRUPT and
// IMAGE_MANIFEST_TOO_LARGE. Client and Repository are safe for concurrent use.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Options are the choices for a Client. The zero value is ready for use.
type Options struct {
	// Insecure lists registries (host or host:port) that plain HTTP is
	// allowed for. Loopback addresses and localhost need not be listed.
	Insecure []string

	// RootCAs are the authorities that registries are checked against; nil
	// means the system's.
	RootCAs *x509.CertPool

	// Proxy finds the proxy of a request; nil means none.
	Proxy func(*http.Request) (*url.URL, error)

	// HostCredentials uses the Docker or Podman credential files of the
	// daemon's user, and the helpers that they name, for requests that bring
	// no login.
	HostCredentials bool

	// StallTimeout is how long a registry may send nothing. Default 30 s.
	StallTimeout time.Duration

	// RetryPause is the pause before the first retry; it doubles with each.
	// Default 250 ms.
	RetryPause time.Duration
}

// Client reads from any registry.
type Client struct {
	opts Options
	ways [3]*http.Transport // by reach: none shares connections with another
	keys authn.Keychain
}

// New returns a Client. Close it at the end.
func New(opts Options) *Client {
	if opts.StallTimeout <= 0 {
		opts.StallTimeout = 30 * time.Second
	}
	if opts.RetryPause <= 0 {
		opts.RetryPause = 250 * time.Millisecond
	}
	c := &Client{opts: opts, keys: anonymous{}}
	if opts.HostCredentials {
		c.keys = authn.DefaultKeychain
	}
	for i := range c.ways {
		c.ways[i] = newTransport(opts, reach(i))
	}
	return c
}

func newTransport(opts Options, r reach) *http.Transport {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second, ControlContext: r.control}
	return &http.Transport{
		Proxy:                  opts.Proxy,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: opts.RootCAs, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  opts.StallTimeout,
		MaxResponseHeaderBytes: 64 << 10, // redirects to signed addresses take some 2 KiB
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    8,
		DisableCompression:     true, // blobs are compressed, and must arrive as they are
		ForceAttemptHTTP2:      true,
	}
}

// Close closes idle connections.
func (c *Client) Close() {
	for _, t := range c.ways {
		t.CloseIdleConnections()
	}
}

// Repository is one repository of a registry, seen with one login.
type Repository struct {
	client *Client
	http   *http.Client
	url    url.URL // of the repository, without the last slash
	label  string  // for messages: docker.io/library/alpine

	// Anonymous says that no login was used: what it shows is public.
	Anonymous bool
}

// Open logs in for a repository, such as "docker.io", "library/alpine". With a
// nil auth it uses the host's credentials if Options allow it, else none.
func (c *Client) Open(ctx context.Context, host, path string, auth *machine.RegistryAuth) (*Repository, error) {
	var opts []name.Option
	plain := c.plainHTTP(host)
	if plain {
		opts = append(opts, name.Insecure)
	}
	label := host + "/" + path
	repo, err := name.NewRepository(label, opts...)
	if err != nil {
		return nil, invalidName(err, label)
	}
	r := &Repository{client: c, label: label}
	login, err := c.login(ctx, repo, auth)
	if err != nil {
		return nil, err
	}
	r.Anonymous = login == authn.Anonymous
	guard := newGuard(c, repo.RegistryStr())
	var rt http.RoundTripper
	err = c.retry(ctx, func(ctx context.Context, _ func()) (bool, error) {
		rt, err = transport.NewWithContext(ctx, repo.Registry, login, guard, []string{repo.Scope(transport.PullScope)})
		return false, err
	})
	if err != nil {
		return nil, r.explain(ctx, err, "")
	}
	r.http = &http.Client{Transport: rt, CheckRedirect: checkRedirect}
	// The transport sets the scheme that the handshake has found.
	r.url = url.URL{Scheme: "https", Host: repo.RegistryStr(), Path: "/v2/" + repo.RepositoryStr()}
	if plain {
		r.url.Scheme = "http"
	}
	return r, nil
}

func (c *Client) login(ctx context.Context, repo name.Repository, auth *machine.RegistryAuth) (authn.Authenticator, error) {
	if auth != nil {
		return authn.FromConfig(authn.AuthConfig{Username: auth.Username, Password: auth.Password}), nil
	}
	login, err := authn.Resolve(ctx, c.keys, repo)
	if err != nil {
		return nil, hostCredentials(err)
	}
	return login, nil
}

// plainHTTP reports whether plain HTTP is allowed for a host, with port or not.
func (c *Client) plainHTTP(host string) bool {
	bare := bareHost(host)
	return isLoopback(bare) || slices.Contains(c.opts.Insecure, host) || slices.Contains(c.opts.Insecure, bare)
}

type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }
