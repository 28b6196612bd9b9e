package network

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseResolvers(t *testing.T) {
	const conf = `# nameserver 1.1.1.1
search example.org
nameserver 192.0.2.53
nameserver   fe80::1%eth0
nameserver ::ffff:198.51.100.1
nameserver not-an-address
nameserver
options ndots:1
`
	got, err := parseResolvers(strings.NewReader(conf))
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("fe80::1"), netip.MustParseAddr("198.51.100.1")}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}

func TestMask(t *testing.T) {
	for prefix, want := range map[string][]byte{
		"100.64.0.0/10":  {255, 192, 0, 0},
		"192.168.0.0/16": {255, 255, 0, 0},
		"10.0.0.1/32":    {255, 255, 255, 255},
	} {
		if diff := cmp.Diff(want, mask(netip.MustParsePrefix(prefix))); diff != "" {
			t.Errorf("%s: %s", prefix, diff)
		}
	}
}

func TestGuardUserModeChecksBase(t *testing.T) {
	for _, base := range []int{0, -1, 1 << 32} {
		if err := GuardUserMode(UserMode{UIDBase: base}); err == nil {
			t.Errorf("base %d is accepted", base)
		}
	}
}
