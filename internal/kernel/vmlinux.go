package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/hyperfleet/hyperfleet/internal/kernel/decompress"
)

// Bounds of what is accepted as a kernel.
const (
	maxPacked   = 256 << 20 // of a vmlinuz, which is held in memory
	maxUnpacked = 512 << 20 // of what it unpacks to
)

// Arch is a guest's machine, by Go's names.
type Arch string

// The machines that guests run on.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// Unpack writes the kernel that image holds to w, in the form that VMMs load:
// an ELF vmlinux for amd64, a raw Image for arm64. The image may be a bzImage,
// an EFI zboot image, a compressed or a plain kernel; what it is, and its
// compression, are found from its bytes. Verify checks the result.
func Unpack(w io.Writer, image []byte, arch Arch) error {
	if len(image) > maxPacked {
		return fmt.Errorf("kernel of %d bytes: more than %d", len(image), maxPacked)
	}
	packed, err := payload(image, arch)
	if err != nil {
		return err
	}
	r, err := decompress.NewReader(bytes.NewReader(packed), decompress.Detect(packed))
	if err != nil {
		return fmt.Errorf("unpack kernel: %w", err)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, maxUnpacked+1))
	if err != nil {
		return fmt.Errorf("unpack kernel: %w", err)
	}
	if n > maxUnpacked {
		return fmt.Errorf("unpack kernel: more than %d bytes", maxUnpacked)
	}
	return nil
}

// payload returns the part of image that is the kernel, compressed or not.
func payload(image []byte, arch Arch) ([]byte, error) {
	switch {
	case isELF(image) && arch == AMD64, isImage(image) && arch == ARM64:
		return image, nil
	case isBzImage(image) && arch == AMD64:
		return bzImagePayload(image)
	case isZboot(image) && arch == ARM64:
		return zbootPayload(image)
	case decompress.Detect(image) != decompress.None:
		return image, nil
	}
	return nil, fmt.Errorf("not a kernel image for %s", arch)
}

func isELF(b []byte) bool { return bytes.HasPrefix(b, []byte("\x7fELF")) }

// isImage tells an arm64 Image by its magic (Linux, Documentation/arm64/booting.rst).
func isImage(b []byte) bool { return at(b, 56, "ARM\x64") }

// isBzImage tells an x86 kernel by its setup header (Linux,
// Documentation/x86/boot.rst, fields boot_flag and header).
func isBzImage(b []byte) bool { return at(b, 0x1fe, "\x55\xaa") && at(b, 0x202, "HdrS") }

// isZboot tells an EFI zboot image (Linux, drivers/firmware/efi/libstub/zboot-header.S).
func isZboot(b []byte) bool { return at(b, 0, "MZ") && at(b, 4, "zimg") }

func at(b []byte, off int, magic string) bool {
	return len(b) >= off && bytes.HasPrefix(b[off:], []byte(magic))
}

// bzImagePayload follows Documentation/x86/boot.rst: the protected-mode code
// begins after the boot sector and setup_sects sectors, and holds the payload
// at payload_offset (protocol 2.08 and later).
func bzImagePayload(b []byte) ([]byte, error) {
	const (
		setupSects = 0x1f1 // u8, 0 means 4
		protocol   = 0x206 // u16
		offset     = 0x248 // u32
		length     = 0x24c // u32
		headerEnd  = 0x250
	)
	if len(b) < headerEnd {
		return nil, fmt.Errorf("bzImage of %d bytes: setup header is cut off", len(b))
	}
	if v := binary.LittleEndian.Uint16(b[protocol:]); v < 0x208 {
		return nil, fmt.Errorf("bzImage of boot protocol %d.%02d: older than 2.08", v>>8, v&0xff)
	}
	sects := uint64(b[setupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + uint64(binary.LittleEndian.Uint32(b[offset:]))
	packed, err := section(b, start, uint64(binary.LittleEndian.Uint32(b[length:])))
	if err != nil {
		return nil, err
	}
	// The build appends the unpacked size as a u32 to what has none of its own,
	// which is all but gzip (Linux, scripts/Makefile.lib, size_append).
	if f := decompress.Detect(packed); f != decompress.Gzip && f != decompress.None && len(packed) > 4 {
		packed = packed[:len(packed)-4]
	}
	return packed, nil
}

// zbootPayload follows zboot-header.S: offset and size of the payload are the
// u32 at 8 and 12.
func zbootPayload(b []byte) ([]byte, error) {
	if len(b) < 16 {
		return nil, fmt.Errorf("zboot image of %d bytes: header is cut off", len(b))
	}
	return section(b, uint64(binary.LittleEndian.Uint32(b[8:])), uint64(binary.LittleEndian.Uint32(b[12:])))
}

func section(b []byte, start, size uint64) ([]byte, error) {
	if size == 0 || start+size > uint64(len(b)) {
		return nil, fmt.Errorf("payload of %d bytes at %d: outside the image's %d", size, start, len(b))
	}
	return b[start : start+size], nil
}
