//go:build host

package kernel_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/kernel"
)

// TestSetupFromDebian gets the real cloud kernel of the host's distribution.
func TestSetupFromDebian(t *testing.T) {
	s, dir := newStore(t)
	k, err := s.Setup(t.Context(), kernel.SetupOptions{Progress: func(step kernel.Step) { t.Log(step) }})
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOARCH == "amd64" {
		// The PVH entry: owner of 4 bytes, 8 of address, type 18, "Xen".
		note := []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00")
		if !bytes.Contains(mustRead(t, k.Path), note) {
			t.Error("vmlinux has no PVH note")
		}
	}
	for _, want := range []string{"virtio_mmio.ko", "virtio_blk.ko", "overlay.ko", "virtio_console.ko", "vmw_vsock_virtio_transport.ko", "virtio_net.ko"} {
		if !slices.Contains(k.Modules, want) {
			t.Errorf("%s is not among %v", want, k.Modules)
		}
	}
	if !slices.Contains(k.SmallModules, "virtio_pci.ko") {
		t.Errorf("virtio_pci.ko is not among %v", k.SmallModules)
	}
	requireOnly(t, filepath.Join(dir, "kernel"), "current", filepath.Base(filepath.Dir(k.Path)))

	files := mustBoot(t, s, "")
	requireCpio(t, files.InitrdPath, k.Modules)
}

// requireCpio compares the initramfs with what cpio unpacks of it.
func requireCpio(t *testing.T, initrd string, modules []string) {
	t.Helper()
	archive := mustRead(t, initrd)
	want := []string{"dev", "dev/console", "init", "hyperfleet", "hyperfleet/lib"}
	for _, m := range modules {
		want = append(want, "hyperfleet/lib/"+m)
	}
	want = append(want, "hyperfleet/modules")
	list := strings.Fields(run(t, "", "cpio", "-t", "--quiet", "-F", initrd))
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("cpio -t (-want +got):\n%s", diff)
	}
	out := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "cpio", "-id", "--quiet", "--no-absolute-filenames")
	cmd.Dir, cmd.Stdin = out, bytes.NewReader(archive)
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio -i: %v\n%s", err, b)
	}
	if b := mustRead(t, filepath.Join(out, "init")); string(b) != "#!init one" {
		t.Errorf("init is %q", b)
	}
	info, err := os.Stat(filepath.Join(out, "dev", "console"))
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("dev/console: %v, %v", info, err)
	}
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out)
}
