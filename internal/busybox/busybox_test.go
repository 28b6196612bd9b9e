package busybox_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/busybox"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian/debiantest"
)

// fakeBusybox is an ELF program with the names of three applets.
func fakeBusybox(machine elf.Machine, segment elf.ProgType) []byte {
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
			Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
		},
		elf.Prog64{Type: uint32(segment)},
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // a value without a fixed size: a defect of the test
		}
	}
	return append(b.Bytes(), "\x00ls\x00sh\x00true\x00nonsense\x00"...)
}

func mustLayout(t *testing.T, opts busybox.Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if err := busybox.WriteLayout(t.Context(), dir, opts); err != nil {
		t.Fatal(err)
	}
	return dir
}

func binaryFile(t *testing.T, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "busybox")
	if err := os.WriteFile(name, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// blob reads a blob and checks its digest.
func blob(t *testing.T, dir, digest string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")))
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(b); "sha256:"+hex.EncodeToString(sum[:]) != digest {
		t.Errorf("blob %s has another digest", digest)
	}
	return b
}

type layout struct {
	Manifests []struct {
		Digest      string
		Size        int
		Annotations map[string]string
	}
}

type manifest struct {
	Config struct{ Digest string }
	Layers []struct {
		Digest string
		Size   int
	}
}

type config struct {
	Architecture string
	Config       struct{ Env, Cmd []string }
	RootFS       struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

func mustJSON(t *testing.T, b []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestWriteLayout(t *testing.T) {
	binary := fakeBusybox(elf.EM_X86_64, elf.PT_LOAD)
	dir := mustLayout(t, busybox.Options{Binary: binaryFile(t, binary)})

	var l layout
	var m manifest
	var c config
	index, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	mustJSON(t, index, &l)
	if len(l.Manifests) != 1 || l.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "latest" {
		t.Fatalf("index %+v", l)
	}
	mustJSON(t, blob(t, dir, l.Manifests[0].Digest), &m)
	mustJSON(t, blob(t, dir, m.Config.Digest), &c)
	if c.Architecture != "amd64" || len(c.Config.Cmd) != 1 || c.Config.Cmd[0] != "/bin/sh" || !strings.HasPrefix(c.Config.Env[0], "PATH=") {
		t.Errorf("config %+v", c)
	}
	layer, err := gzip.NewReader(bytes.NewReader(blob(t, dir, m.Layers[0].Digest)))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(layer)
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(data); "sha256:"+hex.EncodeToString(sum[:]) != c.RootFS.DiffIDs[0] {
		t.Error("diff id is not the layer's")
	}
	requireRootfs(t, data, binary)

	again := mustLayout(t, busybox.Options{Binary: binaryFile(t, binary)})
	if b, err := os.ReadFile(filepath.Join(again, "index.json")); err != nil || !bytes.Equal(b, index) {
		t.Errorf("the same BusyBox gives another image: %v", err)
	}
}

func requireRootfs(t *testing.T, data, binary []byte) {
	t.Helper()
	got := map[string]*tar.Header{}
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got[h.Name] != nil {
			t.Errorf("%s is there twice", h.Name)
		}
		got[h.Name] = h
		if h.Name == "bin/busybox" {
			if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, binary) {
				t.Errorf("bin/busybox is another file: %v", err)
			}
		}
	}
	for name, mode := range map[string]int64{"tmp/": 0o1777, "root/": 0o700, "etc/passwd": 0o644, "etc/group": 0o644, "etc/os-release": 0o644, "bin/busybox": 0o755} {
		if got[name] == nil || got[name].Mode != mode {
			t.Errorf("%s: %+v, want mode %o", name, got[name], mode)
		}
	}
	for _, name := range []string{"bin/ls", "bin/sh", "bin/true"} {
		if got[name] == nil || got[name].Linkname != "busybox" {
			t.Errorf("%s is no link to BusyBox: %+v", name, got[name])
		}
	}
	for _, name := range []string{"bin/nonsense", "bin/vi"} {
		if got[name] != nil {
			t.Errorf("%s is there, but no applet of this BusyBox", name)
		}
	}
}

func TestWriteLayoutFails(t *testing.T) {
	good := fakeBusybox(elf.EM_AARCH64, elf.PT_LOAD)
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		binary []byte
		dir    string
		code   string
	}{
		"text":            {[]byte("#!/bin/sh"), "", "BUSYBOX_INVALID"},
		"dynamic":         {fakeBusybox(elf.EM_X86_64, elf.PT_INTERP), "", "BUSYBOX_INVALID"},
		"other machine":   {fakeBusybox(elf.EM_S390, elf.PT_LOAD), "", "BUSYBOX_INVALID"},
		"folder is full":  {good, full, "LAYOUT_EXISTS"},
		"binary too big":  {make([]byte, 33<<20), "", "BUSYBOX_NOT_FOUND"},
		"without a fault": {good, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			if tt.dir == "" {
				tt.dir = filepath.Join(parent, "layout")
			}
			err := busybox.WriteLayout(t.Context(), tt.dir, busybox.Options{Binary: binaryFile(t, tt.binary)})
			if tt.code == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if errdefs.CodeOf(err) != tt.code {
				t.Errorf("error %v, want code %s", err, tt.code)
			}
			for _, dir := range []string{parent, filepath.Dir(full)} {
				if left, err := filepath.Glob(filepath.Join(dir, ".tmp-*")); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v (%v)", left, err)
				}
			}
		})
	}
}

func TestFromPackage(t *testing.T) {
	binary := fakeBusybox(elf.EM_X86_64, elf.PT_LOAD)
	for _, name := range []string{"bin/busybox", "usr/bin/busybox"} {
		deb, err := debiantest.Deb(map[string][]byte{name: binary, "usr/share/x": []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		archive := &debiantest.Archive{Packages: []debiantest.Package{{Name: "busybox-static", File: deb}}}
		got, err := busybox.Download(t.Context(), archive.Apt())
		if err != nil || !bytes.Equal(got, binary) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestFromPackageFails(t *testing.T) {
	deb, err := debiantest.Deb(map[string][]byte{"usr/share/x": []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for code, archive := range map[string]*debiantest.Archive{
		"APT_NOT_FOUND":     {Missing: true},
		"PACKAGE_NOT_FOUND": {},
		"APT_FAILED":        {Fail: "apt-get download", Packages: []debiantest.Package{{Name: "busybox-static", File: deb}}},
		"BUSYBOX_NOT_FOUND": {Packages: []debiantest.Package{{Name: "busybox-static", File: deb}}},
	} {
		if _, err := busybox.Download(t.Context(), archive.Apt()); errdefs.CodeOf(err) != code {
			t.Errorf("error %v, want code %s", err, code)
		}
	}
}
