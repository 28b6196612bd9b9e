package kernel_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/kernel"
)

func TestSelectModulesOrder(t *testing.T) {
	modules, err := kernel.SelectModules(fakeTree(t, fakeRelease), fakeRelease)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, m := range modules {
		files = append(files, m.File)
		if m.Later != (m.File == "virtio_rng.ko") {
			t.Errorf("%s: later is %t", m.File, m.Later)
		}
		if !bytes.HasPrefix(m.Data, []byte("\x7fELF")) {
			t.Errorf("%s is not unpacked", m.File)
		}
	}
	want := []string{
		"virtio_ring.ko", "virtio.ko", "virtio_mmio.ko", "virtio_console.ko",
		"virtio_blk.ko", "overlay.ko", "virtio_rng.ko",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
}

func TestSelectSmallModules(t *testing.T) {
	names := func(tree fstest.MapFS) (files []string) {
		modules, err := kernel.SelectSmallModules(tree, fakeRelease)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range modules {
			files = append(files, m.File)
		}
		return files
	}
	tree := fakeTree(t, fakeRelease)
	want := []string{
		"virtio_pci_modern_dev.ko", "virtio_ring.ko", "virtio.ko", "virtio_pci.ko",
		"virtio_console.ko", "virtio_blk.ko", "overlay.ko", "virtio_rng.ko",
	}
	if diff := cmp.Diff(want, names(tree)); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	for _, gone := range []string{"kernel/drivers/virtio/virtio_pci.ko", "kernel/drivers/char/virtio_console.ko"} {
		tree := fakeTree(t, fakeRelease)
		delete(tree, gone)
		if got := names(tree); got != nil {
			t.Errorf("without %s: %v", gone, got)
		}
	}
	// A driver that is built in needs no module.
	delete(tree, "kernel/drivers/virtio/virtio_pci.ko")
	tree["modules.builtin"] = &fstest.MapFile{Data: []byte("kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n")}
	if got := names(tree); len(got) != 6 || got[2] != "virtio_console.ko" {
		t.Errorf("with virtio_pci built in: %v", got)
	}
}

func TestSelectModulesRejects(t *testing.T) {
	const blk = "kernel/drivers/block/virtio_blk.ko.zst"
	tests := map[string]struct {
		change func(fstest.MapFS)
		want   string
	}{
		"required module is missing": {func(tree fstest.MapFS) { delete(tree, blk) }, "virtio_blk"},
		"dependency is missing": {func(tree fstest.MapFS) {
			delete(tree, "kernel/drivers/virtio/virtio_ring.ko")
		}, "virtio_ring"},
		"of another kernel": {func(tree fstest.MapFS) {
			tree["kernel/fs/overlayfs/overlay.ko"].Data = fakeModule("5.10.0")
		}, `"5.10.0"`},
		"not a module": {func(tree fstest.MapFS) {
			tree["kernel/fs/overlayfs/overlay.ko"].Data = []byte("text")
		}, "not a module"},
		"no .modinfo": {func(tree fstest.MapFS) {
			tree["kernel/fs/overlayfs/overlay.ko"].Data = fakeVmlinux()
		}, "no .modinfo"},
		"corrupt compression": {func(tree fstest.MapFS) {
			tree[blk].Data = tree[blk].Data[:20]
		}, "virtio_blk"},
		"too big": {func(tree fstest.MapFS) {
			tree[blk].Data = pack(t, make([]byte, 17<<20), "zstd")
		}, "more than"},
		"name with a path": {func(tree fstest.MapFS) {
			tree["kernel/fs/overlayfs/overlay.ko"].Data = fakeModule(fakeRelease, "../../etc/passwd")
		}, "not exist"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tree := fakeTree(t, fakeRelease)
			tt.change(tree)
			_, err := kernel.SelectModules(tree, fakeRelease)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestSelectModulesCycle(t *testing.T) {
	tree := fakeTree(t, fakeRelease)
	tree["kernel/drivers/virtio/virtio_ring.ko"].Data = fakeModule(fakeRelease, "virtio")
	modules, err := kernel.SelectModules(tree, fakeRelease)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range modules {
		if seen[m.File] {
			t.Errorf("%s is there twice", m.File)
		}
		seen[m.File] = true
	}
}

func TestSelectModulesWithoutBuiltinList(t *testing.T) {
	tree := fakeTree(t, fakeRelease)
	delete(tree, "modules.builtin")
	if _, err := kernel.SelectModules(tree, fakeRelease); err == nil || !strings.Contains(err.Error(), "ext4") {
		t.Errorf("error %v, want one about ext4", err)
	}
	tree["kernel/fs/ext4/ext4.ko"] = &fstest.MapFile{Data: fakeModule(fakeRelease)}
	if _, err := kernel.SelectModules(tree, fakeRelease); err != nil {
		t.Error(err)
	}
}

func FuzzSelectModules(f *testing.F) {
	f.Add(fakeModule(fakeRelease, "virtio"), []byte("kernel/fs/ext4/ext4.ko\n"))
	f.Add(fakeVmlinux(), []byte{0})
	made := fakeTree(f, fakeRelease)
	f.Fuzz(func(t *testing.T, module, builtin []byte) {
		tree := maps.Clone(made)
		tree["kernel/drivers/virtio/virtio_ring.ko"] = &fstest.MapFile{Data: module}
		tree["modules.builtin"] = &fstest.MapFile{Data: builtin}
		modules, err := kernel.SelectModules(tree, fakeRelease)
		if err == nil && len(modules) == 0 {
			t.Error("no modules and no error")
		}
	})
}
