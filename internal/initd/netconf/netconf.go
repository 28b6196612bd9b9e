// Package netconf configures the guest's network interface by rtnetlink(7):
// links up, one static address, one default route. It runs no program and keeps
// no state.
package netconf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Config is what one interface gets.
type Config struct {
	Address netip.Prefix
	Gateway netip.Addr // invalid: no default route
}

// Parse reads the two texts; gateway may be empty.
func Parse(address, gateway string) (Config, error) {
	prefix, err := netip.ParsePrefix(address)
	if err != nil {
		return Config{}, fmt.Errorf("address: %w", err)
	}
	cfg := Config{Address: prefix}
	if gateway == "" {
		return cfg, nil
	}
	if cfg.Gateway, err = netip.ParseAddr(gateway); err != nil {
		return Config{}, fmt.Errorf("gateway: %w", err)
	}
	return cfg, nil
}

// loopback is the index of lo in every network namespace.
const loopback = 1

// LoopbackUp brings up lo, which then has 127.0.0.1 and ::1 of its own.
func LoopbackUp() error {
	return request("set lo up", linkUp(loopback))
}

// Apply brings up the first interface that is not lo and configures it. It may
// be called again: an address and a route that are there already are fine.
func Apply(cfg Config) error {
	name, index, err := first("/sys/class/net")
	if err != nil {
		return err
	}
	if err := request("set "+name+" up", linkUp(index)); err != nil {
		return err
	}
	if err := request("set address of "+name, address(index, cfg.Address)); err != nil {
		return err
	}
	if !cfg.Gateway.IsValid() {
		return nil
	}
	return request("set default route", defaultRoute(index, cfg.Gateway))
}

// errNoInterface says that the machine was given none, or its module is missing.
var errNoInterface = fmt.Errorf("no network interface: %w", fs.ErrNotExist)

// Present reports whether there is an interface to configure.
func Present() bool {
	_, _, err := first("/sys/class/net")
	return err == nil
}

// first finds the interface with the lowest index above lo's.
func first(class string) (name string, index int, err error) {
	entries, err := os.ReadDir(class)
	if err != nil {
		return "", 0, err
	}
	for _, e := range entries {
		b, err := os.ReadFile(class + "/" + e.Name() + "/ifindex")
		if err != nil {
			continue // bonding_masters and the like
		}
		i, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err == nil && i > loopback && (index == 0 || i < index) {
			name, index = e.Name(), i
		}
	}
	if index == 0 {
		return "", 0, errNoInterface
	}
	return name, index, nil
}

// request sends one message and reads the kernel's acknowledgement.
func request(what string, msg message) error {
	err := exchange(msg)
	if err == nil || errors.Is(err, unix.EEXIST) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func exchange(msg message) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, msg.encode(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, os.Getpagesize())
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		return err
	}
	return acknowledged(buf[:n])
}

// bytesOf is the address in network order, 4 or 16 bytes.
func bytesOf(a netip.Addr) []byte { return slices.Clone(a.Unmap().AsSlice()) }
