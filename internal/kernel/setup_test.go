package kernel_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian/debiantest"
)

// fakeArchive serves a cloud kernel as Debian does: a meta package and the real one.
func fakeArchive(t *testing.T) *debiantest.Archive {
	t.Helper()
	return &debiantest.Archive{Packages: []debiantest.Package{
		{Name: "linux-image-cloud-amd64", Depends: "debconf, linux-image-" + fakeRelease + " (= 1.0-1)", File: []byte("meta")},
		{Name: "linux-image-" + fakeRelease, Depends: "kmod", File: kernelPackage(t, "lib/modules/")},
	}}
}

func kernelPackage(t *testing.T, modules string) []byte {
	t.Helper()
	src := fakeSource(t, "")
	files := map[string][]byte{
		"boot/vmlinuz-" + fakeRelease:    src.Image,
		"boot/config-" + fakeRelease:     src.Config,
		"boot/System.map-" + fakeRelease: []byte("not wanted"),
		"usr/share/doc/x/copyright":      []byte("not wanted"),
	}
	for name, f := range fakeTree(t, fakeRelease) {
		files[modules+fakeRelease+"/"+name] = f.Data
	}
	deb, err := debiantest.Deb(files)
	if err != nil {
		t.Fatal(err)
	}
	return deb
}

func TestSetupFromPackage(t *testing.T) {
	for _, modules := range []string{"lib/modules/", "usr/lib/modules/"} {
		s, dir := newStore(t)
		archive := fakeArchive(t)
		archive.Packages[1].File = kernelPackage(t, modules)
		var steps []kernel.Step
		opts := kernel.SetupOptions{Arch: kernel.AMD64, Apt: archive.Apt(), Progress: func(step kernel.Step) {
			steps = append(steps, step)
		}}
		k, err := s.Setup(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if k.Release != fakeRelease || k.Source != "package linux-image-"+fakeRelease+"=1.0-1" || len(k.Modules) != 7 {
			t.Errorf("installed %+v", k)
		}
		if len(steps) != 8 || steps[0].Name != "find package linux-image-cloud-amd64" || steps[7].State != kernel.StepDone {
			t.Errorf("steps %+v", steps)
		}
		requireOnly(t, filepath.Join(dir, "kernel"), "current", filepath.Base(filepath.Dir(k.Path)))

		calls := len(archive.Calls())
		again, err := s.Setup(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(k, again); diff != "" || len(archive.Calls()) != calls || len(steps) != 8 {
			t.Errorf("a second setup did something: %s%v", diff, archive.Calls()[calls:])
		}
		opts.Update = true
		if _, err := s.Setup(t.Context(), opts); err != nil || len(archive.Calls()) == calls {
			t.Errorf("update asked nobody: %v", err)
		}
	}
}

func TestSetupDryRun(t *testing.T) {
	s, dir := newStore(t)
	archive := fakeArchive(t)
	var names []string
	_, err := s.Setup(t.Context(), kernel.SetupOptions{Arch: kernel.AMD64, DryRun: true, Apt: archive.Apt(), Progress: func(step kernel.Step) {
		if step.State != kernel.StepPlanned {
			t.Errorf("step %+v", step)
		}
		names = append(names, step.Name)
	}})
	if err != nil || len(names) != 4 || len(archive.Calls()) != 0 {
		t.Errorf("steps %q, calls %q, %v", names, archive.Calls(), err)
	}
	requireOnly(t, filepath.Join(dir, "kernel"))
}

// TestSetupFails lets each step fail in turn: the error says what to do, and
// nothing is left.
func TestSetupFails(t *testing.T) {
	realName := "linux-image-" + fakeRelease
	tests := map[string]struct {
		change func(*debiantest.Archive)
		code   string
		public string
	}{
		"no apt":           {func(a *debiantest.Archive) { a.Missing = true }, "APT_NOT_FOUND", "--kernel"},
		"no package":       {func(a *debiantest.Archive) { a.Packages = nil }, "PACKAGE_NOT_FOUND", "--kernel"},
		"update fails":     {func(a *debiantest.Archive) { a.NeedsUpdate, a.Fail = true, "apt-get update" }, "APT_FAILED", "root"},
		"no real package":  {func(a *debiantest.Archive) { a.Packages[0].Depends = "kmod" }, "PACKAGE_NOT_FOUND", "names no kernel"},
		"real is gone":     {func(a *debiantest.Archive) { a.Packages = a.Packages[:1] }, "PACKAGE_NOT_FOUND", realName},
		"download fails":   {func(a *debiantest.Archive) { a.Fail = "apt-get download" }, "APT_FAILED", realName},
		"corrupt download": {func(a *debiantest.Archive) { a.Corrupt = true }, "PACKAGE_CORRUPT", realName},
		"not a package":    {func(a *debiantest.Archive) { a.Packages[1].File = []byte("text") }, "KERNEL_INVALID", "not a Debian package"},
		"empty package": {func(a *debiantest.Archive) {
			a.Packages[1].File = debiantest.Ar("data.tar", make([]byte, 1024))
		}, "KERNEL_INVALID", "no kernel"},
		"modules of another kernel": {func(a *debiantest.Archive) {
			deb, err := debiantest.Deb(map[string][]byte{
				"boot/vmlinuz-1": fakeSource(t, "").Image, "lib/modules/1/modules.builtin": nil,
				"lib/modules/1/virtio_mmio.ko": fakeModule("1"),
			})
			if err != nil {
				t.Fatal(err)
			}
			a.Packages[1].File = deb
		}, "KERNEL_INVALID", "virtio_mmio"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, dir := newStore(t)
			archive := fakeArchive(t)
			tt.change(archive)
			var last kernel.Step
			_, err := s.Setup(t.Context(), kernel.SetupOptions{Arch: kernel.AMD64, Apt: archive.Apt(), Progress: func(step kernel.Step) { last = step }})
			if errdefs.CodeOf(err) != tt.code || !strings.Contains(errdefs.Public(err), tt.public) {
				t.Errorf("error %s %q, want %s with %q", errdefs.CodeOf(err), errdefs.Public(err), tt.code, tt.public)
			}
			if last.State != kernel.StepFailed || last.Detail != errdefs.Public(err) {
				t.Errorf("last step %+v", last)
			}
			requireOnly(t, filepath.Join(dir, "kernel"))
		})
	}
}

func TestSetupFromFiles(t *testing.T) {
	s, dir := newStore(t)
	boot := filepath.Join(dir, "boot")
	src := fakeSource(t, "")
	image := filepath.Join(boot, "vmlinuz-"+fakeRelease)
	mustWrite(t, image, src.Image)
	mustWrite(t, filepath.Join(boot, "config-"+fakeRelease), src.Config)
	for name, f := range fakeTree(t, fakeRelease) {
		mustWrite(t, filepath.Join(dir, "modules", name), f.Data)
	}
	k, err := s.Setup(t.Context(), kernel.SetupOptions{Arch: kernel.AMD64, Kernel: image})
	if err != nil || len(k.Modules) != 0 || k.Source != "file "+image {
		t.Fatalf("installed %+v, %v", k, err)
	}
	k, err = s.Setup(t.Context(), kernel.SetupOptions{Arch: kernel.AMD64, Kernel: image, Modules: filepath.Join(dir, "modules")})
	if err != nil || len(k.Modules) != 7 {
		t.Fatalf("installed %+v, %v", k, err)
	}
	if b := mustRead(t, filepath.Join(filepath.Dir(k.Path), "modules", "overlay.ko")); strings.Contains(string(b), "signature") {
		t.Error("the configuration beside the kernel is not used")
	}
	for _, opts := range []kernel.SetupOptions{
		{Kernel: filepath.Join(dir, "missing")},
		{Kernel: image, Modules: filepath.Join(dir, "missing")},
		{Kernel: image, Modules: image},
		{Kernel: boot},
	} {
		opts.Arch = kernel.AMD64
		if _, err := s.Setup(t.Context(), opts); !errdefs.Is(err, errdefs.Invalid) {
			t.Errorf("setup from %q with %q: %v", opts.Kernel, opts.Modules, err)
		}
	}
	if now, err := s.Installed(); err != nil || now.Path != k.Path {
		t.Errorf("failed setups changed what is installed: %+v, %v", now, err)
	}
}

func TestSetupUnsupportedArch(t *testing.T) {
	s, _ := newStore(t)
	_, err := s.Setup(t.Context(), kernel.SetupOptions{Arch: "s390x"})
	if !errdefs.Is(err, errdefs.Unsupported) || !strings.Contains(errdefs.Public(err), "--kernel") {
		t.Errorf("error %v", err)
	}
}

// requireOnly fails unless dir holds just the names, or is not there for none.
func requireOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("files in %s (-want +got):\n%s", dir, diff)
	}
}

// TestSetupNoPlace cannot make the store's folder, where a file is in its way.
func TestSetupNoPlace(t *testing.T) {
	s, dir := newStore(t)
	mustWrite(t, filepath.Join(dir, "kernel"), []byte("a file"))
	_, err := s.Setup(t.Context(), kernel.SetupOptions{Arch: kernel.AMD64, Apt: fakeArchive(t).Apt()})
	if errdefs.CodeOf(err) != "KERNEL_IO" || strings.Contains(errdefs.Public(err), dir) {
		t.Errorf("error %s %q", errdefs.CodeOf(err), errdefs.Public(err))
	}
}
