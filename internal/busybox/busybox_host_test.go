//go:build host

package busybox_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/busybox"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
)

// TestRealTools downloads the real package, and lets other tools read the image
// that is made of it.
func TestRealTools(t *testing.T) {
	binary, err := busybox.Download(t.Context(), debian.Apt{})
	if err != nil {
		t.Fatal(err)
	}
	dir := mustLayout(t, busybox.Options{Binary: binaryFile(t, binary)})
	if out := run(t, "skopeo", "inspect", "--config", "oci:"+dir+":latest"); !strings.Contains(out, "/bin/sh") {
		t.Errorf("skopeo inspect: %s", out)
	}
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", dir+":latest", bundle)
	root := filepath.Join(bundle, "rootfs")
	if b, err := os.ReadFile(filepath.Join(root, "bin", "busybox")); err != nil || !bytes.Equal(b, binary) {
		t.Errorf("bin/busybox is another file: %v", err)
	}
	out := run(t, "chroot", root, "/bin/sh", "-c", "ls / && id -un && cat /etc/os-release")
	for _, want := range []string{"tmp\n", "root\n", "ID=busybox"} {
		if !strings.Contains(out, want) {
			t.Errorf("the root file system's shell says no %q:\n%s", want, out)
		}
	}
	// Each applet of this BusyBox has its link, as it lists them itself.
	for name := range strings.FieldsSeq(run(t, "chroot", root, "/bin/busybox", "--list")) {
		if target, err := os.Readlink(filepath.Join(root, "bin", name)); name != "busybox" && (err != nil || target != "busybox") {
			t.Errorf("applet %s has no link: %q, %v", name, target, err)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}
