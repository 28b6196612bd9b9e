package initd

import (
	"fmt"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
)

// mark ends each line that init writes to a file of the image, so that the next
// boot can replace it.
const mark = " # hyperfleet"

// defaultHostname is a guest's name when nobody gave one.
const defaultHostname = "hyperfleet"

// setHostname names the machine in the kernel and in the image's files. The
// name goes into files, so it must be a plain one.
func setHostname(root *mount.Root, name string) error {
	if !validHostname(name) {
		return fmt.Errorf("host name %q is not a DNS name", name)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := mount.Edit(root, "/etc/hostname", func([]byte) []byte { return []byte(name + "\n") }); err != nil {
		return err
	}
	return mount.Edit(root, "/etc/hosts", func(old []byte) []byte { return []byte(hosts(string(old), name)) })
}

// nameItself gives a guest without a host the name in its own files.
func nameItself() error {
	name := defaultHostname
	if b, err := os.ReadFile("/etc/hostname"); err == nil && validHostname(strings.TrimSpace(string(b))) {
		name = strings.TrimSpace(string(b))
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	return nil
}

// validHostname accepts letters, digits, "-" and ".", at most 64 (HOST_NAME_MAX).
func validHostname(name string) bool {
	if name == "" || len(name) > 64 {
		return false
	}
	return strings.IndexFunc(name, func(r rune) bool {
		return r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// hosts keeps the image's lines and adds what is missing: localhost, and the
// machine's own name.
func hosts(old, name string) string {
	var b strings.Builder
	have := map[string]bool{} // address and name
	for line := range strings.Lines(old) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasSuffix(line, mark) {
			continue
		}
		b.WriteString(line + "\n")
		text, _, _ := strings.Cut(line, "#")
		if f := strings.Fields(text); len(f) > 1 {
			for _, n := range f[1:] {
				have[f[0]+" "+n] = true
			}
		}
	}
	for _, h := range []struct{ address, name string }{
		{"127.0.0.1", "localhost"}, {"::1", "localhost"}, {"127.0.1.1", name},
	} {
		if !have[h.address+" "+h.name] {
			b.WriteString(h.address + "\t" + h.name + mark + "\n")
		}
	}
	return b.String()
}

// setResolver writes /etc/resolv.conf.
func setResolver(root *mount.Root, servers []string) error {
	var b strings.Builder
	for _, s := range servers {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return fmt.Errorf("name server: %w", err)
		}
		b.WriteString("nameserver " + addr.String() + "\n")
	}
	return mount.Edit(root, "/etc/resolv.conf", func([]byte) []byte { return []byte(b.String()) })
}
