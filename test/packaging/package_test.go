//go:build host

package packaging

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// Both architectures are built, Debian's own checker has nothing to say, and the
// same tree makes the same bytes.
func TestPackagesAreBuilt(t *testing.T) {
	t.Parallel()
	architectures := []string{"amd64", "arm64"}
	first, err := build(t.TempDir(), architectures...)
	if err != nil {
		t.Fatal(err)
	}
	if out := output(t, append([]string{"lintian", "--no-cfg", "--allow-root", "--fail-on", "error,warning"}, first...)...); out != "" {
		t.Errorf("lintian: %s", out)
	}
	second, err := native()
	if err != nil {
		t.Fatal(err)
	}
	a, errA := os.ReadFile(first[slices.Index(architectures, runtime.GOARCH)])
	b, errB := os.ReadFile(second)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two builds of one tree differ: %v, %v", errA, errB)
	}
	for i, want := range []struct {
		machine elf.Machine
		qemu    string
	}{{elf.EM_X86_64, "qemu-system-x86"}, {elf.EM_AARCH64, "qemu-system-arm"}} {
		dir := t.TempDir()
		output(t, "dpkg-deb", "-x", first[i], dir)
		for _, program := range []string{"usr/bin/hyperfleet", "usr/lib/hyperfleet/hyperfleet-init"} {
			f, err := elf.Open(filepath.Join(dir, program))
			if err != nil {
				t.Fatal(err)
			}
			if f.Machine != want.machine {
				t.Errorf("%s: %s is for %v", first[i], program, f.Machine)
			}
			f.Close()
		}
		if got := output(t, "dpkg-deb", "-f", first[i], "Recommends"); !strings.Contains(got, want.qemu) {
			t.Errorf("%s recommends %s", first[i], got)
		}
	}
}

func TestInstall(t *testing.T) {
	t.Parallel()
	d := boot(t)
	d.install()
	d.check("systemctl is-active hyperfleet; systemctl is-enabled hyperfleet", "active\nenabled")
	d.check("systemctl show -p StatusText --value hyperfleet", "serving /run/hyperfleet/api.sock")
	d.run("systemd-analyze verify --man=no hyperfleet.service")
	version := strings.Fields(d.run("hyperfleet version"))
	if len(version) < 4 || version[1] != version[3] {
		t.Errorf("client and daemon: %q", version)
	}
	for path, want := range map[string]string{
		"/usr/bin/hyperfleet": "755 root:root", "/usr/lib/hyperfleet/hyperfleet-init": "755 root:root",
		"/etc/hyperfleet/hyperfleet.env": "600 root:root", "/var/lib/hyperfleet": "700 root:root", "/run/hyperfleet": "711 root:root",
		"/run/hyperfleet/api.sock": "660 root:hyperfleet", "/var/lib/hyperfleet/hyperfleet.db": "600 root:root",
		"/usr/share/bash-completion/completions/hyperfleet": "644 root:root", "/usr/share/doc/hyperfleet/copyright": "644 root:root",
		"/usr/share/man/man1/hyperfleet.1.gz": "644 root:root", "/usr/share/man/man1/hyperfleet-run.1.gz": "644 root:root",
	} {
		if got, err := d.try("stat -c '%a %U:%G' " + path); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s: %s, %v, want %s", path, got, err, want)
		}
	}
	// The group is the key to the API.
	d.run("setpriv --reuid=nobody --regid=hyperfleet --clear-groups env HOME=/nonexistent hyperfleet image ls")
	if out, err := d.try("setpriv --reuid=nobody --regid=nogroup --clear-groups env HOME=/nonexistent hyperfleet --host unix:///run/hyperfleet/api.sock image ls"); err == nil {
		t.Errorf("somebody without the group uses the API: %s", out)
	}
	if out := d.run("journalctl -u hyperfleet -o json --output-fields=PRIORITY,MESSAGE"); !strings.Contains(out, `"PRIORITY":"6"`) || !strings.Contains(out, `"level=INFO msg=ready`) {
		t.Errorf("the journal: %s", out)
	}
	if out := d.run("ss -Htln 2>/dev/null || cat /proc/net/tcp /proc/net/tcp6"); strings.Contains(out, "00000000:0BB8") {
		t.Errorf("the API is open to others: %s", out)
	}
}

// What the administrator has changed stays, also when the package is put over
// itself; a daemon that dies comes back.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	d := boot(t)
	d.install()
	d.run("echo HYPERFLEET_METRICS_LISTEN=unix:///run/hyperfleet/metrics.sock >>/etc/hyperfleet/hyperfleet.env")
	before := d.run("systemctl show -p MainPID --value hyperfleet")
	d.run("dpkg -i /root/hyperfleet.deb")
	if after := d.run("systemctl show -p MainPID --value hyperfleet"); after == before {
		t.Error("the daemon of before the upgrade still runs")
	}
	d.check("systemctl is-active hyperfleet; grep -c METRICS_LISTEN=unix /etc/hyperfleet/hyperfleet.env; test -S /run/hyperfleet/metrics.sock && echo metrics", "active\n1\nmetrics")

	d.run("kill -9 $(systemctl show -p MainPID --value hyperfleet)")
	hosttest.Await(t, 30*time.Second, "the daemon is back", func() error {
		out, err := d.try("systemctl show -p NRestarts --value hyperfleet; systemctl is-active hyperfleet; hyperfleet version")
		if !strings.HasPrefix(out, "1\nactive\n") || !strings.Contains(out, "(qemu)") || err != nil {
			return fmt.Errorf("%s: %w", out, err)
		}
		return nil
	})
	d.run("systemctl disable --now hyperfleet && dpkg -i /root/hyperfleet.deb")
	if out, err := d.try("systemctl is-enabled hyperfleet"); err == nil {
		t.Errorf("the upgrade enabled what was disabled: %s", out)
	}
}

func TestRemoveAndPurge(t *testing.T) {
	t.Parallel()
	d := boot(t)
	d.install()
	d.run("dpkg -r hyperfleet")
	for path, want := range map[string]bool{
		"/usr/bin/hyperfleet": false, "/run/hyperfleet/api.sock": false, "/usr/lib/hyperfleet": false,
		"/etc/hyperfleet/hyperfleet.env": true, "/var/lib/hyperfleet/hyperfleet.db": true,
	} {
		if d.exists(path) != want {
			t.Errorf("after removal there is %s: %v", path, !want)
		}
	}
	if out, err := d.try("systemctl is-active hyperfleet"); err == nil {
		t.Errorf("after removal the daemon is %s", out)
	}
	d.run("dpkg -P hyperfleet")
	d.requirePurged("no machine was there")
}

func (d *debian) requirePurged(when string) {
	d.t.Helper()
	for _, path := range []string{"/var/lib/hyperfleet", "/etc/hyperfleet", "/run/hyperfleet", "/etc/systemd/system/multi-user.target.wants/hyperfleet.service"} {
		if d.exists(path) {
			d.t.Errorf("%s, and purge leaves %s", when, path)
		}
	}
}

// A purge takes machines along only when somebody says so.
func TestPurgeAsks(t *testing.T) {
	t.Parallel()
	const disk = "/var/lib/hyperfleet/machines/m1/disk.ext4"
	// script(1) gives dpkg a terminal.
	onTerminal := func(answer string) string {
		return "printf '" + answer + `\n' | script -qec 'dpkg -P hyperfleet' /dev/null`
	}
	d := boot(t)
	for _, c := range []struct {
		when, purge string
		kept        bool
	}{
		{"nobody to ask", "dpkg -P hyperfleet </dev/null", true},
		{"a terminal, but nobody at it", "export DEBIAN_FRONTEND=noninteractive; " + onTerminal("y"), true},
		{"the answer is no", onTerminal("n"), true},
		{"the answer is yes", onTerminal("y"), false},
		{"the environment says yes", "HYPERFLEET_PURGE=yes dpkg -P hyperfleet </dev/null", false},
	} {
		d.install()
		d.run("mkdir -p $(dirname " + disk + ") && echo precious >" + disk)
		out := d.run(c.purge)
		if d.exists(disk) != c.kept {
			t.Errorf("%s: the disk is kept: %v: %s", c.when, !c.kept, out)
		}
		if c.kept && !strings.Contains(out, "is kept") {
			t.Errorf("%s, and nothing is said: %s", c.when, out)
		}
		if !c.kept {
			d.requirePurged(c.when)
		}
	}
}
