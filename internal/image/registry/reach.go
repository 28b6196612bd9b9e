package registry

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
)

// reach says how close to this host a request may lead. Larger is closer.
type reach int

const (
	internet reach = iota // only addresses that are the same everywhere
	site                  // private networks too
	anywhere              // this host too; no reach has the metadata services of clouds
)

// closed are ranges that net/netip counts as public, and that lead into the
// network of an operator (RFC 6598) or of a test (RFC 2544), to a service of
// the local network (RFC 6890), or on to an IPv4 address that is hidden in them
// (RFC 8215, RFC 3056, RFC 4380).
var closed = prefixes("100.64.0.0/10", "198.18.0.0/15", "192.0.0.0/24", "240.0.0.0/4",
	"64:ff9b:1::/48", "2002::/16", "2001::/32")

// nat64 holds all IPv4 addresses in its last four bytes (RFC 6052), which is
// how hosts without IPv4 see the internet.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// metadata are the addresses of services that give a cloud machine's secrets to
// whoever asks, beside 169.254.169.254: Alibaba's, Oracle's, and Amazon's.
var metadata = prefixes("100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::/32")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// allows reports whether a may be connected to.
func (r reach) allows(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		b := a.As16()
		a = netip.AddrFrom4([4]byte(b[12:]))
	}
	switch {
	case a.IsLinkLocalUnicast() || a.IsMulticast() || within(a, metadata):
		return false
	case a.IsLoopback() || a.IsUnspecified(): // the kernel takes the latter for the former
		return r >= anywhere
	case a.IsPrivate() || within(a, closed):
		return r >= site
	default:
		return true
	}
}

func within(a netip.Addr, list []netip.Prefix) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(a) })
}

// control is asked by a net.Dialer for every address that a name resolved to.
func (r reach) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || !r.allows(ap.Addr()) {
		return fmt.Errorf("%w: %s is not in reach of images", errRefused, address)
	}
	return nil
}

// checkName is control for what can be told without asking a name server, where
// a proxy connects for us.
func (r reach) checkName(host string) error {
	a, err := netip.ParseAddr(host)
	if err == nil && !r.allows(a) || isLoopback(host) && r < anywhere {
		return fmt.Errorf("%w: registry leads to %s", errRefused, host)
	}
	return nil
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
	return err == nil && a.Unmap().IsPrivate()
}
