package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
)

// errRefused is in the chain of every request that we do not make.
var errRefused = errors.New("request refused")

// guard lets plain HTTP pass only where it is allowed. It sits below the
// handshakes and below redirects, and so sees every request.
type guard struct {
	inner http.RoundTripper
	plain func(host string) bool
}

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !g.plain(req.URL.Host) {
		return nil, fmt.Errorf("%w: %s is not allowed over plain %s", errRefused, req.URL.Host, req.URL.Scheme)
	}
	return g.inner.RoundTrip(req)
}

// checkRedirect follows redirects to where a registry keeps its blobs, but not
// from a public host into a private network.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return fmt.Errorf("%w: more than 10 redirects", errRefused)
	}
	from, to := via[0].URL.Hostname(), req.URL.Hostname()
	if from != to && isPrivate(to) && !isPrivate(from) {
		return fmt.Errorf("%w: redirect from %s into a private network", errRefused, from)
	}
	return nil
}

// refuseLinkLocal keeps callers from reaching, by the name of an image, the
// metadata service that clouds offer at 169.254.169.254.
func refuseLinkLocal(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err == nil && ap.Addr().Unmap().IsLinkLocalUnicast() {
		return fmt.Errorf("%w: %s is a link-local address", errRefused, ap.Addr())
	}
	return nil
}

func bareHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

func isPrivate(host string) bool {
	a, err := netip.ParseAddr(host)
	return isLoopback(host) || err == nil && (a.Unmap().IsPrivate() || a.Unmap().IsLinkLocalUnicast() || a.Unmap().IsUnspecified())
}
