//go:build vm

package packaging

import (
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// A machine that systemd's hardened unit started lives through an upgrade and a
// crash of the daemon. A removal shuts it down and keeps its disk.
func TestUpgradeKeepsMachines(t *testing.T) {
	kerneltest.Boot(t)
	cache, err := kerneltest.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	qemu := "qemu-system-x86"
	if runtime.GOARCH == "arm64" {
		qemu = "qemu-system-arm"
	}
	d := boot(t, qemu)
	d.install()
	d.put(filepath.Join(cache, "kernel"), "kernel")
	d.put(hosttest.BusyboxArchive(t), "image.tar")
	d.run("mv /root/kernel /var/lib/hyperfleet/kernel && hyperfleet image import /root/image.tar box:1")
	d.run("hyperfleet machine create --name web box:1 && hyperfleet start web")
	d.check("hyperfleet exec web -- sh -c 'echo kept >/root/file; cat /root/file'", "kept")
	vmm := d.run("pidof qemu-system-x86_64 qemu-system-aarch64")
	for _, c := range []struct{ what, script string }{
		{"upgrade", "dpkg -i /root/hyperfleet.deb"},
		{"stop and start", "systemctl stop hyperfleet && systemctl start hyperfleet"},
		{"crash", `before=$(systemctl show -p MainPID --value hyperfleet); kill -9 $before
			until [ "$(systemctl is-active hyperfleet)" = active ] && [ $(systemctl show -p MainPID --value hyperfleet) != $before ]; do sleep 0.1; done`},
	} {
		d.run(c.script)
		d.check("hyperfleet exec web -- cat /root/file", "kept")
		if now := d.run("pidof qemu-system-x86_64 qemu-system-aarch64"); now != vmm {
			t.Errorf("%s: the VMM was %s, and is %s", c.what, vmm, now)
		}
	}
	if out := d.run("dpkg -r hyperfleet"); !strings.Contains(out, "shutting down the running machines") {
		t.Errorf("remove says %s", out)
	}
	if out, err := d.try("pidof qemu-system-x86_64 qemu-system-aarch64"); err == nil {
		t.Errorf("after removal runs %s", out)
	}
	if out := d.run("dpkg -P hyperfleet </dev/null"); !strings.Contains(out, "the disks of 1 machine(s)") {
		t.Errorf("purge says %s", out)
	}
	d.install()
	d.run("hyperfleet start web")
	d.check("hyperfleet exec web -- cat /root/file", "kept")
	d.run("HYPERFLEET_PURGE=yes dpkg -P hyperfleet </dev/null")
	if d.exists("/var/lib/hyperfleet") {
		t.Error("a purge that may remove machines keeps them")
	}
}
