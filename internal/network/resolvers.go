package network

import (
	"bufio"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

// ResolvConf is where a host lists its name servers: resolv.conf(5).
const ResolvConf = "/etc/resolv.conf"

// Resolvers reads the name servers of a resolv.conf file, for
// UserMode.Resolvers.
func Resolvers(path string) ([]netip.Addr, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	defer f.Close()
	servers, err := parseResolvers(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	return servers, nil
}

// parseResolvers passes over what is no name server, as the resolver does.
func parseResolvers(r io.Reader) ([]netip.Addr, error) {
	var servers []netip.Addr
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			servers = append(servers, addr.WithZone("").Unmap())
		}
	}
	return servers, lines.Err()
}
