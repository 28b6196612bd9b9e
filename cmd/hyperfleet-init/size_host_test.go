//go:build host

package main_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// maxSize is what init may take of a guest's memory, in bytes: it is unpacked
// into the initramfs and stays there.
const maxSize = 4 << 20

func TestBinarySizeAndLinkage(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "init")
			cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, ".")
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
			if msg, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("build: %v\n%s", err, msg)
			}
			requireSmall(t, out)
			requireStatic(t, out)
			requireLittleData(t, out)
		})
	}
}

func requireSmall(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", st.Size())
	if st.Size() > maxSize {
		t.Errorf("init has %d bytes, at most %d are allowed", st.Size(), maxSize)
	}
}

// maxData is what init may have of variables, in bytes: a kernel refuses to
// start a program that asks for more than the guest has, touched or not.
const maxData = 1 << 20

func requireLittleData(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var size uint64
	for _, s := range f.Sections {
		if s.Flags&(elf.SHF_ALLOC|elf.SHF_WRITE) == elf.SHF_ALLOC|elf.SHF_WRITE {
			size += s.Size
		}
	}
	t.Logf("%d bytes of data", size)
	if size == 0 || size > maxData {
		t.Errorf("init has %d bytes of data, at most %d are allowed", size, maxData)
	}
}

func requireStatic(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("init needs a dynamic loader")
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("init needs libraries: %v", libs)
	}
}
