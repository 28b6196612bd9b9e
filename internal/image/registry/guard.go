package registry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// errRefused is in the chain of every request that we do not make.
var errRefused = errors.New("request refused")

// guard decides which requests for one registry are made at all. It sits below
// the handshakes and below redirects, and so sees every request. The caller
// has chosen the registry, but the registry chooses where its redirects and its
// token server are: those may lead to no network that is closer to us than the
// registry itself.
type guard struct {
	client *Client
	home   string       // the registry, as requests have it
	reach  atomic.Int32 // of requests to other hosts
}

func newGuard(c *Client, home string) *guard {
	g := &guard{client: c, home: home}
	bare := bareHost(home)
	switch {
	case c.plainHTTP(home):
		g.reach.Store(int32(anywhere))
	case isPrivate(bare):
		g.reach.Store(int32(site))
	}
	return g
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.client.plainHTTP(req.URL.Host) {
		return nil, fmt.Errorf("%w: %s is not allowed over plain %s", errRefused, req.URL.Host, req.URL.Scheme)
	}
	if req.URL.Host == g.home {
		return g.client.ways[anywhere].RoundTrip(g.learn(req))
	}
	r := reach(g.reach.Load())
	if err := r.checkName(req.URL.Hostname()); err != nil {
		return nil, err
	}
	if g.proxied(req) {
		r = anywhere // the proxy's address is its owner's choice
	}
	return g.client.ways[r].RoundTrip(req)
}

// learn makes a request to the registry tell where that is. An address counts
// once TLS has proved that the registry is there: what its name resolves to may
// be a lie.
func (g *guard) learn(req *http.Request) *http.Request {
	if req.URL.Scheme != "https" || g.proxied(req) {
		return req
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			if a, ok := info.Conn.RemoteAddr().(*net.TCPAddr); ok && a.IP.IsPrivate() {
				g.reach.CompareAndSwap(int32(internet), int32(site))
			}
		},
	}))
}

// checkRedirect ends circles; guard sees where a redirect leads.
func checkRedirect(_ *http.Request, via []*http.Request) error {
	if len(via) >= 10 { // as many as net/http allows
		return fmt.Errorf("%w: more than 10 redirects", errRefused)
	}
	return nil
}

func (g *guard) proxied(req *http.Request) bool {
	if g.client.opts.Proxy == nil {
		return false
	}
	proxy, err := g.client.opts.Proxy(req)
	return proxy != nil && err == nil
}

func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}
