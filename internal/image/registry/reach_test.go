package registry

import (
	"net/netip"
	"testing"
)

func TestReach(t *testing.T) {
	const none = anywhere + 1
	for address, least := range map[string]reach{
		"192.0.2.1":                internet,
		"2606:4700::1":             internet,
		"64:ff9b::1.1.1.1":         internet,
		"10.0.0.1":                 site,
		"172.31.0.1":               site,
		"192.168.0.1":              site,
		"fd00::1":                  site,
		"100.64.0.1":               site,
		"198.18.0.1":               site,
		"192.0.0.1":                site,
		"64:ff9b::10.0.0.1":        site,
		"2002:a00:1::":             site,
		"::ffff:10.0.0.1":          site,
		"127.0.0.1":                anywhere,
		"::1":                      anywhere,
		"0.0.0.0":                  anywhere,
		"::":                       anywhere,
		"64:ff9b::127.0.0.1":       anywhere,
		"169.254.169.254":          none,
		"::ffff:169.254.169.254":   none,
		"64:ff9b::169.254.169.254": none,
		"fe80::1%eth0":             none,
		"fd00:ec2::254":            none,
		"100.100.100.200":          none,
		"192.0.0.192":              none,
		"224.0.0.1":                none,
		"ff02::1":                  none,
	} {
		a := netip.MustParseAddr(address)
		for r := internet; r <= anywhere; r++ {
			if got, want := r.allows(a), r >= least; got != want {
				t.Errorf("reach %d to %s: %v", r, address, got)
			}
			dial := netip.AddrPortFrom(a, 443).String()
			if err := r.control(t.Context(), "tcp", dial, nil); (err == nil) != (r >= least) {
				t.Errorf("reach %d to %s: %v", r, dial, err)
			}
		}
	}
	if err := anywhere.control(t.Context(), "tcp", "no address", nil); err == nil {
		t.Error("what is no address is in reach")
	}
}
