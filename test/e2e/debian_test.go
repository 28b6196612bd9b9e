//go:build vm

package e2e

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// listing prints every entry of a root file system but those that a running
// system or init makes its own. Sizes and link counts of folders belong to the
// file system that holds them.
const listing = `cd "$1" && find . -xdev \( -path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp \) -prune -o \
	! -path . ! -path ./etc ! -path ./etc/hosts ! -path ./etc/hostname ! -path ./etc/resolv.conf \
	\( -type d -printf '%P %y %m %U:%G %T@\n' -o -printf '%P %y %m %U:%G %T@ %s %n %l\n' \) | LC_ALL=C sort`

const sums = `cd "$1" && find . -xdev -type f ! -path './proc/*' ! -path './sys/*' ! -path './dev/*' ! -path './run/*' ! -path './tmp/*' \
	! -path ./etc/hosts ! -path ./etc/hostname ! -path ./etc/resolv.conf -print0 | LC_ALL=C sort -z | xargs -0 sha256sum`

// A Debian root file system agrees, entry by entry, with what umoci unpacks of
// the same image.
func TestDebianAgreesWithUmoci(t *testing.T) {
	dir := t.TempDir()
	layout, tree := debianLayout(t, dir)
	h := hosttest.New(t)
	if _, err := h.ImportImage(t.Context(), "localhost/debian:test", tarOf(t, layout)); err != nil {
		t.Fatal(err)
	}
	m := h.Start("debian", "localhost/debian:test", func(r *hyperfleet.CreateMachineRequest) { r.MemSizeMiB = 512 })

	for _, c := range []struct {
		what  string
		host  []string
		guest []string
	}{
		{"apt-get --version", []string{"chroot", tree, "apt-get", "--version"}, []string{"apt-get", "--version"}},
		{"dpkg --verify", []string{"dpkg", "--root=" + tree, "--verify"}, []string{"dpkg", "--verify"}},
		{"getcap -r", []string{"sh", "-c", `cd "$1" && getcap -r bin sbin usr etc`, "-", tree}, []string{"sh", "-c", "cd / && getcap -r bin sbin usr etc"}},
		{"entries", []string{"sh", "-c", listing, "-", tree}, []string{"sh", "-c", listing, "-", "/"}},
		{"contents", []string{"sh", "-c", sums, "-", tree}, []string{"sh", "-c", sums, "-", "/"}},
	} {
		want := strings.Split(string(output(t, c.host...)), "\n")
		got := strings.Split(h.Output(m, c.guest...), "\n")
		t.Logf("%s: %d lines", c.what, len(want)-1)
		diff(t, c.what, got, want)
	}
	if caps := h.Output(m, "getcap", "-r", "/usr/bin"); !strings.Contains(caps, "cap_net_raw") {
		t.Errorf("ping lost its capability: %q", caps)
	}
}

// debianLayout makes an OCI layout of a Debian root file system, and the tree
// that umoci unpacks of it.
func debianLayout(t *testing.T, dir string) (layout, tree string) {
	t.Helper()
	rootfs, bundle := filepath.Join(dir, "rootfs.tar"), filepath.Join(dir, "bundle")
	layout = filepath.Join(dir, "layout")
	output(t, "mmdebstrap", "--quiet", "--variant=minbase", "--include=libcap2-bin,iputils-ping", "bookworm", rootfs)
	output(t, "umoci", "init", "--layout", layout)
	output(t, "umoci", "new", "--image", layout+":debian")
	output(t, "umoci", "unpack", "--image", layout+":debian", bundle)
	output(t, "tar", "-C", filepath.Join(bundle, "rootfs"), "--xattrs", "--xattrs-include=*", "-xpf", rootfs)
	output(t, "umoci", "repack", "--image", layout+":debian", bundle)
	fresh := filepath.Join(dir, "fresh")
	output(t, "umoci", "unpack", "--image", layout+":debian", fresh)
	for _, big := range []string{rootfs, bundle} {
		if err := os.RemoveAll(big); err != nil {
			t.Fatal(err)
		}
	}
	return layout, filepath.Join(fresh, "rootfs")
}

func tarOf(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layout.tar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	return f
}

func output(t *testing.T, argv ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, stderr.String())
	}
	return out
}

// diff reports the lines that only one of two lists has.
func diff(t *testing.T, what string, got, want []string) {
	t.Helper()
	missing, extra := minus(want, got), minus(got, want)
	for i := 0; i < len(missing) && i < 20; i++ {
		t.Errorf("%s: guest lacks  %s", what, missing[i])
	}
	for i := 0; i < len(extra) && i < 20; i++ {
		t.Errorf("%s: guest has    %s", what, extra[i])
	}
}

func minus(a, b []string) []string {
	seen := make(map[string]bool, len(b))
	for _, s := range b {
		seen[s] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return seen[s] })
}
