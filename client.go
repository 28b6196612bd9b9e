package hyperfleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// DefaultHost is where a Client without Host looks for the daemon.
const DefaultHost = "unix:///run/hyperfleet/api.sock"

const (
	headerRequestID      = "X-Correlation-ID"
	headerIdempotencyKey = "Idempotency-Key"
)

// Client talks to one daemon. Its zero value is ready for the daemon of this
// host; fields must not change after the first call. All methods are safe for
// concurrent use.
type Client struct {
	// Host is "unix:///path", "http://host:port" or "https://host:port",
	// the last two with an optional path prefix. Empty means DefaultHost.
	Host string

	// APIKey, when set, is sent as a bearer token.
	APIKey string

	// TLS, when set, is used for an https host, instead of what the system
	// trusts. For a daemon with a certificate of its own making, RootCAs is a
	// pool with the file that the daemon names at its start:
	//
	//	pem, err := os.ReadFile("ca.crt")
	//	pool := x509.NewCertPool()
	//	ok := pool.AppendCertsFromPEM(pem)
	//	c := &hyperfleet.Client{Host: "https://host:3000", TLS: &tls.Config{RootCAs: pool}}
	TLS *tls.Config

	// MaxRetries is how often a call is made again that is safe to repeat (it
	// only reads, or has an IdempotencyKey) and that failed for a reason which
	// may pass: the connection broke, or the server answered 429 or 503. The
	// pauses grow from 0.1 to 2 s; a Retry-After of up to 30 s is obeyed, and a
	// longer one ends the call. 0 means 3, negative none. A server that is not
	// there at all is told of at once.
	MaxRetries int

	// Transport replaces the connection to Host, for proxies and tests; TLS has
	// no effect then.
	// It must speak HTTP/1.1, since streamed execs upgrade their connection.
	Transport http.RoundTripper

	once sync.Once
	http *http.Client
	base *url.URL
	err  error // Host cannot be used
}

// CloseIdleConnections closes connections that no call uses.
func (c *Client) CloseIdleConnections() {
	if hc, _, err := c.connect(); err == nil {
		hc.CloseIdleConnections()
	}
}

// connect resolves the fields once.
func (c *Client) connect() (*http.Client, *url.URL, error) {
	c.once.Do(func() {
		base, transport, err := dialer(c.Host, c.TLS)
		if c.Transport != nil {
			transport = c.Transport
		}
		c.base, c.err = base, err
		c.http = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		}}
	})
	return c.http, c.base, c.err
}

// dialer returns the base URL and a transport for host.
func dialer(host string, trust *tls.Config) (*url.URL, http.RoundTripper, error) {
	if host == "" {
		host = DefaultHost
	}
	u, err := url.Parse(host)
	if err != nil {
		return nil, nil, fmt.Errorf("parse host %q: %w", host, err)
	}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		TLSClientConfig:     trust.Clone(),
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 16,
		IdleConnTimeout:     90 * time.Second,
		Protocols:           new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	d := &net.Dialer{Timeout: 10 * time.Second}
	t.DialContext = d.DialContext
	switch {
	case u.Scheme == "unix" && u.Path != "" && u.Host == "":
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", u.Path)
		}
		return &url.URL{Scheme: "http", Host: "localhost"}, t, nil
	case (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		u.Path = strings.TrimSuffix(u.Path, "/")
		return u, t, nil
	}
	return nil, nil, fmt.Errorf("host %q: want unix:///path, http://host:port or https://host:port", host)
}

// CallOption changes one call.
type CallOption func(*call)

// IdempotencyKey names a request, with 1 to 255 printable ASCII characters of
// the caller's choice: however often it is sent, with the same key and content,
// the server does its work once, and answers as it did the first time, for 24
// hours. So a call that may have reached the server can be made again. The
// server goes on with the work when the caller leaves.
//
// A command that the daemon's end cut off is not run again: the call fails with
// ErrConflict and the code IDEMPOTENCY_OUTCOME_UNKNOWN.
func IdempotencyKey(key string) CallOption {
	return func(q *call) {
		if q.header == nil {
			q.header = http.Header{}
		}
		q.header.Set(headerIdempotencyKey, key)
	}
}

// with applies the options of a call.
func (q call) with(options []CallOption) call {
	for _, o := range options {
		o(&q)
	}
	return q
}

// call is one request.
type call struct {
	method string
	path   string // escaped
	query  url.Values
	body   io.Reader // nil: in, when that is set, as JSON
	in     any
	header http.Header
	once   bool // never made again: its answer is what the server is like now
}

// try makes the request once.
func (c *Client) try(ctx context.Context, q call) (*http.Response, error) {
	hc, base, err := c.connect()
	if err != nil {
		return nil, err
	}
	body := q.body
	if body == nil && q.in != nil {
		raw, err := json.Marshal(q.in)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(raw)
	}
	target := strings.TrimSuffix(base.String(), "/") + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, q.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	c.setHeaders(req, q)
	resp, err := hc.Do(req)
	if err != nil {
		return nil, c.connectError(err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		return nil, responseError(resp)
	}
	return resp, nil
}

func (c *Client) setHeaders(req *http.Request, q call) {
	maps.Copy(req.Header, q.header)
	req.Header.Set("User-Agent", "hyperfleet-go")
	if q.body == nil && q.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+c.APIKey)
	}
}

// connectError marks an error that came from dialing.
func (c *Client) connectError(err error) error {
	host := c.Host
	if host == "" {
		host = DefaultHost
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return fmt.Errorf("%w at %s (is \"hyperfleet serve\" running?): %w", ErrNoDaemon, host, op.Err)
	}
	return fmt.Errorf("ask %s: %w", host, connectionError{err})
}

// errConnection is what a connection's errors are, beside what they say.
var errConnection = errors.New("connection failed")

type connectionError struct{ error }

func (e connectionError) Unwrap() []error { return []error{e.error, errConnection} }

// do makes the request and decodes the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, q call, out any) error {
	resp, err := c.send(ctx, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("decode the answer to %s %s: %w", q.method, q.path, err)
	}
	return nil
}

// Health is the answer of [Client.Health].
type Health struct {
	Status string `json:"status" doc:"Always ok" example:"ok"`
}

// Health asks whether the daemon answers.
func (c *Client) Health(ctx context.Context) (Health, error) {
	var h Health
	err := c.do(ctx, call{method: http.MethodGet, path: "/health"}, &h)
	return h, err
}

// Ready asks whether the daemon can do its work; the error says what it lacks.
func (c *Client) Ready(ctx context.Context) error {
	return c.do(ctx, call{method: http.MethodGet, path: "/ready", once: true}, nil)
}

// Version is which build the daemon is.
type Version struct {
	Version string `json:"version" doc:"Version of the daemon" example:"v1.2.3"`
	Runtime string `json:"runtime" doc:"What runs the machines" example:"qemu"`
}

// Version asks for the daemon's version.
func (c *Client) Version(ctx context.Context) (Version, error) {
	var v Version
	err := c.do(ctx, call{method: http.MethodGet, path: "/version"}, &v)
	return v, err
}
