//go:build host

package netconf_test

import (
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/netconf"
)

func TestApplyInANamespace(t *testing.T) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			t.Errorf("new namespace: %v", err)
			return
		}
		// /sys/class/net shows the namespace that mounted it.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
			t.Error(err)
			return
		}
		apply(t)
	}()
	<-done
}

func apply(t *testing.T) {
	if err := netconf.LoopbackUp(); err != nil {
		t.Error(err)
	}
	cfg := netconf.Config{Address: netip.MustParsePrefix("10.1.2.3/24"), Gateway: netip.MustParseAddr("10.1.2.1")}
	if err := netconf.Apply(cfg); err == nil {
		t.Error("configured a missing interface")
	}
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "add", "test0", "type", "veth", "peer", "name", "test1").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
		return
	}
	for range 2 {
		if err := netconf.Apply(cfg); err != nil {
			t.Error(err)
		}
	}
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		t.Errorf("lo: %v, %v", lo, err)
	}
	var found bool
	for _, name := range []string{"test0", "test1"} {
		ifi, err := net.InterfaceByName(name)
		if err != nil {
			t.Error(err)
			continue
		}
		addrs, err := ifi.Addrs()
		for _, a := range addrs {
			found = found || a.String() == "10.1.2.3/24" && ifi.Flags&net.FlagUp != 0
		}
		if err != nil {
			t.Error(err)
		}
	}
	if !found {
		t.Error("no interface has the address")
	}
}
