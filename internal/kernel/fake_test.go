package kernel_test

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

const fakeRelease = "6.1.0-1-fake-amd64"

// fakeVmlinux is an ELF executable with the PVH note, the kernel's banner, and
// enough calls for the x86 filter of xz to have work.
func fakeVmlinux() []byte { return fakeELF(elf.EM_X86_64, 18) }

func fakeELF(machine elf.Machine, note uint32) []byte {
	const headers = 64 + 56
	var notes bytes.Buffer
	write(&notes, uint32(4), uint32(8), uint32(1), []byte("GNU\x00"), uint64(0)) // another owner first
	write(&notes, uint32(4), uint32(8), note, []byte("Xen\x00"), uint64(0x1000000))
	var b bytes.Buffer
	write(&b, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	})
	write(&b, elf.Prog64{Type: uint32(elf.PT_NOTE), Off: headers, Filesz: uint64(notes.Len()), Memsz: uint64(notes.Len())})
	write(&b, notes.Bytes())
	for i := range 2000 {
		write(&b, byte(0xe8), uint32(100000-5*i), []byte("\x90\x90")) // call, nop, nop
	}
	write(&b, []byte("Linux version %s (%s)\x00Linux version "+fakeRelease+" (fake@example.org) #1 SMP\x00"))
	return b.Bytes()
}

func write(b *bytes.Buffer, values ...any) {
	for _, v := range values {
		if err := binary.Write(b, binary.LittleEndian, v); err != nil {
			panic(err) // a value without a fixed size: a defect of the test
		}
	}
}

// fakeBzImage wraps a payload as the kernel's build does.
func fakeBzImage(payload []byte) []byte {
	b := make([]byte, 4*512+100) // boot sector, three setup sectors, start of the code
	b[0x1f1] = 3
	copy(b[0x1fe:], "\x55\xaa")
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x20f)
	binary.LittleEndian.PutUint32(b[0x248:], 100)
	binary.LittleEndian.PutUint32(b[0x24c:], uint32(len(payload)))
	return append(append(b, payload...), "what follows"...)
}

// packings are how a kernel can be compressed.
func packings(t testing.TB, kernel []byte) map[string][]byte {
	t.Helper()
	size := binary.LittleEndian.AppendUint32(nil, uint32(len(kernel)))
	return map[string][]byte{
		"none":  kernel,
		"gzip":  pack(t, kernel, "gzip"),
		"zstd":  append(pack(t, kernel, "zstd"), size...),
		"lz4":   append(pack(t, kernel, "lz4"), size...),
		"xz":    append(pack(t, kernel, "xz"), size...),
		"bzip2": append(pack(t, kernel, "bzip2"), size...),
	}
}

// pack compresses. There is no xz or bzip2 writer here: those of the fake
// kernel are files, made by `xz --check=crc32 --x86 --lzma2` and `bzip2 -9`.
func pack(t testing.TB, data []byte, format string) []byte {
	t.Helper()
	var b bytes.Buffer
	var err error
	switch format {
	case "gzip":
		z := gzip.NewWriter(&b)
		_, err = z.Write(data)
		err = firstError(err, z.Close())
	case "zstd":
		z, newErr := zstd.NewWriter(&b)
		if newErr != nil {
			t.Fatal(newErr)
		}
		_, err = z.Write(data)
		err = firstError(err, z.Close())
	case "lz4":
		z := lz4.NewWriter(&b)
		err = z.Apply(lz4.LegacyOption(true))
		if err == nil {
			_, err = z.Write(data)
		}
		err = firstError(err, z.Close())
	default:
		packed, readErr := os.ReadFile(filepath.Join("testdata", "vmlinux."+format))
		if readErr != nil {
			t.Fatal(readErr)
		}
		return packed
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// fakeModule is an ELF object with a .modinfo and a .BTF section, and a
// signature.
func fakeModule(release string, depends ...string) []byte {
	info := "license=GPL\x00depends=" + strings.Join(depends, ",") + "\x00vermagic=" + release + " SMP preempt \x00"
	types := strings.Repeat("types! ", 30)
	names := "\x00.modinfo\x00.shstrtab\x00.BTF\x00"
	sections := []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Size: uint64(len(info))},
		{Name: 20, Type: uint32(elf.SHT_PROGBITS), Size: uint64(len(types))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Size: uint64(len(names))},
	}
	offset := uint64(64)
	for i := range sections {
		sections[i].Off = offset
		offset += sections[i].Size
	}
	var b bytes.Buffer
	write(&b, elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1,
		Shoff: offset, Ehsize: 64, Shentsize: 64, Shnum: uint16(len(sections)), Shstrndx: 3,
	})
	write(&b, []byte(info), []byte(types), []byte(names), sections)
	signature := []byte("not a real signature")
	write(&b, signature, make([]byte, 8))
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(signature))))
	b.WriteString("~Module signature appended~\n")
	return b.Bytes()
}

// fakeTree is the /lib/modules/RELEASE folder of a small cloud kernel.
func fakeTree(t testing.TB, release string) fstest.MapFS {
	t.Helper()
	file := func(data []byte) *fstest.MapFile { return &fstest.MapFile{Data: data, Mode: 0o644} }
	return fstest.MapFS{
		"modules.builtin":                                file([]byte("kernel/fs/ext4/ext4.ko\nkernel/crypto/crc32c_generic.ko\n")),
		"kernel/drivers/virtio/virtio.ko":                file(fakeModule(release, "virtio_ring")),
		"kernel/drivers/virtio/virtio_ring.ko":           file(fakeModule(release)),
		"kernel/drivers/virtio/virtio_mmio.ko.gz":        file(pack(t, fakeModule(release, "virtio", "virtio_ring"), "gzip")),
		"kernel/drivers/virtio/virtio_pci.ko":            file(fakeModule(release, "virtio_pci_modern_dev", "virtio")),
		"kernel/drivers/virtio/virtio_pci_modern_dev.ko": file(fakeModule(release)),
		"kernel/drivers/block/virtio_blk.ko.zst":         file(pack(t, fakeModule(release, "virtio-ring", "virtio"), "zstd")),
		"kernel/drivers/char/hw_random/virtio-rng.ko":    file(fakeModule(release, "virtio")),
		"kernel/drivers/char/virtio_console.ko":          file(fakeModule(release, "virtio", "virtio_ring")),
		"kernel/fs/overlayfs/overlay.ko":                 file(fakeModule(release)),
		"kernel/drivers/net/dummy.ko":                    file(fakeModule(release)),
	}
}
