// Package network fences guests off from their host: the nftables side of the
// daemon.
//
// GuardUserMode is for QEMU's user-mode network, whose connections come from
// the host's own network stack. The package is the only one that speaks
// netlink; it starts no process, and knows nothing of machines. The daemon
// calls it, with CAP_NET_ADMIN. Functions are safe for concurrent use.
package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// tableName is the table of ours, in the family inet: one for each range of
// users, since daemons that run side by side must not undo each other's.
func tableName(uidBase int) string { return "hyperfleet_user_" + strconv.Itoa(uidBase) }

// UserMode says whom GuardUserMode fences in.
type UserMode struct {
	UIDBase   int          // the VMMs' users are UIDBase to UIDBase+65535
	Resolvers []netip.Addr // the host's name servers: port 53 of them stays open
}

// GuardUserMode makes the table that refuses the VMMs' users new connections to
// the host itself, to its loopback, and to private, link-local, multicast and
// reserved addresses. Answers to connections that were made to a VMM pass. A
// table that is there already is replaced, in one step: there is no moment
// without it. It fails with NET_ADMIN_MISSING without the capability.
func GuardUserMode(u UserMode) error {
	if u.UIDBase <= 0 || u.UIDBase > 1<<32-2-slots {
		return errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "bad base %d of the VMMs' users", u.UIDBase)
	}
	return change(func(c *nftables.Conn) {
		table := remove(c, u.UIDBase)
		c.AddTable(table)
		addRules(c, table, u)
	})
}

// UnguardUserMode removes the table of the users from uidBase on. Removing one
// that is not there is no error.
func UnguardUserMode(uidBase int) error {
	return change(func(c *nftables.Conn) { remove(c, uidBase) })
}

// remove removes the table, which is first made in case that it is not there.
func remove(c *nftables.Conn, uidBase int) *nftables.Table {
	table := &nftables.Table{Name: tableName(uidBase), Family: nftables.TableFamilyINet}
	c.AddTable(table)
	c.DelTable(table)
	return table
}

// change makes all changes in one transaction, in the network namespace of the
// calling thread.
func change(f func(*nftables.Conn)) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	f(c)
	err = c.Flush()
	if errors.Is(err, unix.EPERM) {
		return errdefs.Wrap(err, errdefs.Unsupported, "NET_ADMIN_MISSING", "guarding user-mode networking needs CAP_NET_ADMIN")
	}
	if err != nil {
		return fmt.Errorf("set nftables table: %w", err)
	}
	return nil
}
