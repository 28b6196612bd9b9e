package kernel_test

import (
	"bytes"
	"context"
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

var _ machine.Kernels = (*kernel.Store)(nil)

func newStore(t *testing.T) (*kernel.Store, string) {
	t.Helper()
	dir := t.TempDir()
	init := filepath.Join(dir, "init")
	mustWrite(t, init, []byte("#!init one"))
	return kernel.NewStore(filepath.Join(dir, "kernel"), init), dir
}

func mustWrite(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func fakeSource(t *testing.T, name string) kernel.Source {
	t.Helper()
	return kernel.Source{
		Name:    name,
		Arch:    kernel.AMD64,
		Image:   fakeBzImage(pack(t, fakeVmlinux(), "gzip")),
		Modules: fakeTree(t, fakeRelease),
		Config:  []byte("CONFIG_MODULES=y\n# CONFIG_MODULE_SIG_FORCE is not set\n"),
	}
}

func mustInstall(t *testing.T, s *kernel.Store, src kernel.Source) kernel.Installed {
	t.Helper()
	k, err := s.Install(t.Context(), src)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustBoot(t *testing.T, s *kernel.Store, path string) machine.BootFiles {
	t.Helper()
	files, err := s.Boot(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestStoreBoot(t *testing.T) {
	s, dir := newStore(t)
	if _, err := s.Boot(t.Context(), ""); errdefs.CodeOf(err) != "KERNEL_NOT_FOUND" || !errdefs.Is(err, errdefs.NotFound) {
		t.Fatalf("boot without a kernel: %v", err)
	}
	k := mustInstall(t, s, fakeSource(t, "file x"))
	if k.Release != fakeRelease || k.Source != "file x" || len(k.Modules) != 7 {
		t.Errorf("installed %+v", k)
	}
	first := mustBoot(t, s, "")
	if !bytes.Equal(mustRead(t, first.KernelPath), fakeVmlinux()) {
		t.Error("kernel is not the unpacked one")
	}
	list := listCpio(t, mustRead(t, first.InitrdPath))
	for _, want := range []string{`"#!init one"`, `overlay.ko\n\nvirtio_rng.ko\n"`, "hyperfleet/lib/overlay.ko"} {
		if !strings.Contains(list, want) {
			t.Errorf("initramfs has no %s:\n%s", want, list)
		}
	}
	if strings.Contains(list, "signature") {
		t.Error("modules are signed still")
	}
	if strings.Contains(list, "virtio_pci") {
		t.Error("ordinary guests get a driver that they have no use for")
	}
	list = listCpio(t, unzip(t, mustRead(t, first.SmallInitrdPath)))
	for _, want := range []string{`"#!init one"`, "virtio_pci.ko", `overlay.ko\n\nvirtio_rng.ko\n"`} {
		if !strings.Contains(list, want) {
			t.Errorf("small initramfs has no %s:\n%s", want, list)
		}
	}
	if strings.Contains(list, "virtio_mmio") {
		t.Error("small guests get a driver that they have no use for")
	}
	if again := mustBoot(t, s, ""); again != first {
		t.Errorf("boot files changed: %v, %v", first, again)
	}

	mustWrite(t, filepath.Join(dir, "init"), []byte("#!init number two"))
	second := mustBoot(t, s, "")
	if second.InitrdPath == first.InitrdPath || second.SmallInitrdPath == first.SmallInitrdPath || !strings.Contains(listCpio(t, mustRead(t, second.InitrdPath)), "number two") {
		t.Error("another init gives the same initramfs")
	}
	mustRead(t, first.InitrdPath) // a start may hold it still

	// The path of our own kernel, also through the link, means its modules.
	if got := mustBoot(t, s, filepath.Join(dir, "kernel", "current", "vmlinux")); got != second {
		t.Errorf("boot by path: %v, want %v", got, second)
	}
}

func TestStoreBootOtherKernel(t *testing.T) {
	s, dir := newStore(t)
	path := filepath.Join(dir, "vmlinux")
	_, err := s.Boot(t.Context(), path)
	if !errdefs.Is(err, errdefs.Invalid) || !strings.Contains(errdefs.Public(err), path) {
		t.Errorf("boot without the file: %v", err)
	}
	mustWrite(t, path, fakeVmlinux())
	files := mustBoot(t, s, path)
	if files.KernelPath != path || files.SmallInitrdPath != "" {
		t.Errorf("boot files %+v, want kernel %s and no small initramfs", files, path)
	}
	if list := listCpio(t, mustRead(t, files.InitrdPath)); !strings.Contains(list, `hyperfleet/modules ""`) || strings.Contains(list, ".ko") {
		t.Errorf("initramfs has modules:\n%s", list)
	}
	if _, err := s.Boot(t.Context(), dir); !errdefs.Is(err, errdefs.Invalid) {
		t.Errorf("boot of a folder: %v", err)
	}
}

// TestStoreDropsTypesOfModules: all else of a module stays what it was.
func TestStoreDropsTypesOfModules(t *testing.T) {
	s, _ := newStore(t)
	k := mustInstall(t, s, fakeSource(t, "file x"))
	module := mustRead(t, filepath.Join(filepath.Dir(k.Path), "modules", "virtio.ko"))
	before, err := elf.NewFile(bytes.NewReader(fakeModule(fakeRelease, "virtio_ring")))
	if err != nil {
		t.Fatal(err)
	}
	after, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range before.Sections[1:] {
		want, err := section.Data()
		if err != nil {
			t.Fatal(err)
		}
		if section.Name == ".BTF" {
			want = []byte{}
		}
		got, err := after.Section(section.Name).Data()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s holds %q, %v; want %q", section.Name, got, err, want)
		}
	}
	if n := bytes.Count(module, []byte("types! ")); n > 64/7+1 {
		t.Errorf("%d of 30 types are left in the file", n)
	}
}

func TestStoreKeepsSignaturesThatMayBeNeeded(t *testing.T) {
	for _, config := range []string{"", "CONFIG_MODULE_SIG=y\nCONFIG_MODULE_SIG_FORCE=y\n"} {
		s, _ := newStore(t)
		src := fakeSource(t, "file x")
		src.Config = []byte(config)
		mustInstall(t, s, src)
		files := mustBoot(t, s, "")
		if !strings.Contains(listCpio(t, mustRead(t, files.InitrdPath)), "Module signature appended") {
			t.Errorf("config %q: modules are not signed", config)
		}
	}
}

// TestStoreBootWithoutPCI: small guests of such a kernel get what all others get.
func TestStoreBootWithoutPCI(t *testing.T) {
	s, _ := newStore(t)
	src := fakeSource(t, "file x")
	tree := fakeTree(t, fakeRelease)
	delete(tree, "kernel/drivers/virtio/virtio_pci.ko")
	src.Modules = tree
	mustInstall(t, s, src)
	if files := mustBoot(t, s, ""); files.SmallInitrdPath != "" || files.InitrdPath == "" {
		t.Errorf("boot files %+v", files)
	}
}

func TestStoreInitMissing(t *testing.T) {
	s, dir := newStore(t)
	mustInstall(t, s, fakeSource(t, "file x"))
	if err := os.Remove(filepath.Join(dir, "init")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Boot(t.Context(), ""); errdefs.CodeOf(err) != "INIT_NOT_FOUND" {
		t.Errorf("error %v, want INIT_NOT_FOUND", err)
	}
}

func TestStoreBootConcurrently(t *testing.T) {
	s, dir := newStore(t)
	mustInstall(t, s, fakeSource(t, "file x"))
	other := kernel.NewStore(filepath.Join(dir, "kernel"), filepath.Join(dir, "init")) // as another process
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			from := []*kernel.Store{s, other}[i%2]
			files, err := from.Boot(context.Background(), "")
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(files.InitrdPath); err != nil || !bytes.HasSuffix(bytes.TrimRight(b, "\x00"), []byte("TRAILER!!!")) {
				t.Errorf("initramfs is not whole: %v", err)
			}
		})
	}
	wg.Wait()
	requireNothingUnfinished(t, dir)
}

func TestStoreInstallConcurrently(t *testing.T) {
	s, dir := newStore(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := s.Install(context.Background(), fakeSource(t, "file x")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	requireNothingUnfinished(t, dir)
	mustBoot(t, s, "")
}

func TestStoreKeepsTwoKernels(t *testing.T) {
	s, dir := newStore(t)
	var last kernel.Installed
	for _, name := range []string{"file a", "file b", "file c", "file d"} {
		last = mustInstall(t, s, fakeSource(t, name))
	}
	dirs, err := filepath.Glob(filepath.Join(dir, "kernel", fakeRelease+"-*"))
	if err != nil || len(dirs) != 2 {
		t.Errorf("%d kernels are kept, want 2 (%v)", len(dirs), err)
	}
	got, err := s.Installed()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(last, got); diff != "" || got.Source != "file d" {
		t.Errorf("installed (-want +got):\n%s", diff)
	}
}

// TestStoreInstallFails checks that a failed install changes nothing.
func TestStoreInstallFails(t *testing.T) {
	tests := map[string]func(*kernel.Source){
		"not a kernel":     func(src *kernel.Source) { src.Image = []byte("text") },
		"corrupt kernel":   func(src *kernel.Source) { src.Image = src.Image[:3000] },
		"no vmlinux in it": func(src *kernel.Source) { src.Image = fakeBzImage(pack(t, []byte("text"), "gzip")) },
		"other machine":    func(src *kernel.Source) { src.Arch = kernel.ARM64 },
		"other modules":    func(src *kernel.Source) { src.Modules = fakeTree(t, "5.10.0") },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t)
			before := mustInstall(t, s, fakeSource(t, "file good"))
			src := fakeSource(t, "file bad")
			change(&src)
			_, err := s.Install(t.Context(), src)
			if errdefs.CodeOf(err) != "KERNEL_INVALID" || !strings.Contains(errdefs.Public(err), "file bad") {
				t.Errorf("error %v, want KERNEL_INVALID", err)
			}
			if after, err := s.Installed(); err != nil || after.Path != before.Path {
				t.Errorf("installed is %+v, %v", after, err)
			}
			requireNothingUnfinished(t, dir)
		})
	}
}

func TestStoreSweepsWhatWasLeft(t *testing.T) {
	s, dir := newStore(t)
	left := filepath.Join(dir, "kernel", ".tmp-left")
	fresh := filepath.Join(dir, "kernel", ".tmp-fresh")
	mustWrite(t, filepath.Join(left, "vmlinux"), []byte("half"))
	mustWrite(t, filepath.Join(fresh, "vmlinux"), []byte("half"))
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(left, old, old); err != nil {
		t.Fatal(err)
	}
	mustInstall(t, s, fakeSource(t, "file x"))
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("an old unfinished folder is there still: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Errorf("another process's folder is gone: %v", err)
	}
}

func requireNothingUnfinished(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{"kernel/.tmp-*", "kernel/initramfs/.tmp-*"} {
		left, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v (%v)", left, err)
		}
	}
}
