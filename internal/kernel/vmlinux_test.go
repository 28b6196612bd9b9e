package kernel_test

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/kernel"
)

var update = flag.Bool("update", false, "write the golden files, and testdata/vmlinux for the tools to compress")

func TestUnpack(t *testing.T) {
	vmlinux := fakeVmlinux()
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", "vmlinux"), vmlinux, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, payload := range packings(t, vmlinux) {
		t.Run(name, func(t *testing.T) {
			requireUnpacks(t, fakeBzImage(payload), kernel.AMD64, vmlinux)
		})
	}
	t.Run("plain vmlinux", func(t *testing.T) { requireUnpacks(t, vmlinux, kernel.AMD64, vmlinux) })
	t.Run("compressed vmlinux", func(t *testing.T) {
		requireUnpacks(t, pack(t, vmlinux, "zstd"), kernel.AMD64, vmlinux)
	})
	t.Run("setup_sects of 0 means 4", func(t *testing.T) {
		b := fakeBzImage(vmlinux)
		b = slices.Insert(b, 4*512, make([]byte, 512)...)
		b[0x1f1] = 0
		requireUnpacks(t, b, kernel.AMD64, vmlinux)
	})
}

func TestUnpackARM64(t *testing.T) {
	image := fakeImage()
	requireUnpacks(t, image, kernel.ARM64, image)
	requireUnpacks(t, pack(t, image, "gzip"), kernel.ARM64, image)
	for _, format := range []string{"gzip", "zstd"} {
		payload := pack(t, image, format)
		zboot := append([]byte("MZ\x00\x00zimg"), make([]byte, 56)...)
		binary.LittleEndian.PutUint32(zboot[8:], uint32(len(zboot)))
		binary.LittleEndian.PutUint32(zboot[12:], uint32(len(payload)))
		zboot = append(append(zboot, payload...), "what follows"...)
		requireUnpacks(t, zboot, kernel.ARM64, image)
	}
	release, err := kernel.Verify(bytes.NewReader(image), int64(len(image)), kernel.ARM64)
	if err != nil || release != fakeRelease {
		t.Errorf("Verify: %q, %v", release, err)
	}
}

func fakeImage() []byte {
	b := make([]byte, 4096)
	copy(b[56:], "ARM\x64")
	return append(b, "Linux version "+fakeRelease+" (fake)"...)
}

func requireUnpacks(t *testing.T, image []byte, arch kernel.Arch, want []byte) {
	t.Helper()
	var got bytes.Buffer
	if err := kernel.Unpack(&got, image, arch); err != nil {
		t.Fatalf("Unpack: %v", err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("unpacked to %d bytes that are not the %d of the kernel", got.Len(), len(want))
	}
}

func TestUnpackRejects(t *testing.T) {
	good := fakeBzImage(fakeVmlinux())
	change := func(f func([]byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	tests := map[string]struct {
		image []byte
		want  string
	}{
		"empty":            {nil, "not a kernel image"},
		"text":             {[]byte("#!/bin/sh\n"), "not a kernel image"},
		"cut header":       {good[:0x210], "cut off"},
		"old protocol":     {change(func(b []byte) { binary.LittleEndian.PutUint16(b[0x206:], 0x207) }), "2.07"},
		"no payload":       {change(func(b []byte) { binary.LittleEndian.PutUint32(b[0x24c:], 0) }), "outside"},
		"payload too long": {change(func(b []byte) { binary.LittleEndian.PutUint32(b[0x24c:], 1<<30) }), "outside"},
		"offset too far":   {change(func(b []byte) { binary.LittleEndian.PutUint32(b[0x248:], 0xffffffff) }), "outside"},
		"lzo payload":      {fakeBzImage([]byte("\x89LZO etc")), "lzo"},
		"lzma payload":     {fakeBzImage([]byte("\x5d\x00\x00 etc")), "lzma"},
		"cut gzip":         {fakeBzImage(pack(t, fakeVmlinux(), "gzip")[:500]), "unexpected EOF"},
		"cut lz4":          {fakeBzImage(pack(t, fakeVmlinux(), "lz4")[:500]), "unexpected EOF"},
		"other machine":    {fakeImage(), "not a kernel image for amd64"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := kernel.Unpack(&bytes.Buffer{}, tt.image, kernel.AMD64)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	vmlinux := fakeVmlinux()
	release, err := kernel.Verify(bytes.NewReader(vmlinux), int64(len(vmlinux)), kernel.AMD64)
	if err != nil || release != fakeRelease {
		t.Fatalf("Verify: %q, %v", release, err)
	}
	tests := map[string]struct {
		vmlinux []byte
		want    string
	}{
		"not an ELF":    {[]byte("hello"), "not an ELF"},
		"no PVH note":   {fakeELF(elf.EM_X86_64, 17), "PVH"},
		"other machine": {fakeELF(elf.EM_AARCH64, 18), "not for x86-64"},
		"no banner":     {bytes.ReplaceAll(vmlinux, []byte("Linux version 6"), []byte("Linux versiom 6")), "banner"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := kernel.Verify(bytes.NewReader(tt.vmlinux), int64(len(tt.vmlinux)), kernel.AMD64)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// TestVerifyFindsBannerAnywhere puts the banner across the edges of the
// scanner's buffer, which is 1 MiB.
func TestVerifyFindsBannerAnywhere(t *testing.T) {
	head := fakeImage()[:64]
	for _, at := range []int{1<<20 - 20, 1<<20 - 1, 1 << 20, 2<<20 - 100} {
		image := append(bytes.Clone(head), make([]byte, at-len(head))...)
		image = append(image, "Linux version 6.9.0 (x)"...)
		image = append(image, make([]byte, 1<<20)...)
		release, err := kernel.Verify(bytes.NewReader(image), int64(len(image)), kernel.ARM64)
		if err != nil || release != "6.9.0" {
			t.Errorf("banner at %d: %q, %v", at, release, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	for _, payload := range packings(f, fakeVmlinux()) {
		f.Add(fakeBzImage(payload))
	}
	f.Add(fakeImage())
	f.Fuzz(func(t *testing.T, image []byte) {
		for _, arch := range []kernel.Arch{kernel.AMD64, kernel.ARM64} {
			var out limited
			if err := kernel.Unpack(&out, image, arch); err != nil {
				continue
			}
			release, err := kernel.Verify(bytes.NewReader(out.Bytes()), int64(out.Len()), arch)
			if err == nil && (release == "" || strings.ContainsAny(release, "/\x00")) {
				t.Errorf("release %q", release)
			}
		}
	})
}

// limited keeps the fuzzer's memory small.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.Len() > 8<<20 {
		return 0, os.ErrClosed
	}
	return l.Buffer.Write(p)
}
