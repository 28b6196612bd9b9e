package kernel

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Verify checks that r, of size bytes, is a kernel that VMMs can load for arch,
// and returns its release ("6.1.0-56-cloud-amd64"). For amd64 that is an ELF
// executable with the PVH entry note; for arm64 a raw Image.
func Verify(r io.ReaderAt, size int64, arch Arch) (string, error) {
	var err error
	if arch == AMD64 {
		err = verifyELF(r)
	} else {
		err = verifyImage(r)
	}
	if err != nil {
		return "", err
	}
	release, err := findRelease(io.NewSectionReader(r, 0, size))
	if err != nil {
		return "", fmt.Errorf("find kernel release: %w", err)
	}
	return release, nil
}

func verifyImage(r io.ReaderAt) error {
	head := make([]byte, 64)
	if _, err := r.ReadAt(head, 0); err != nil || !isImage(head) {
		return errors.New("not an arm64 Image")
	}
	return nil
}

func verifyELF(r io.ReaderAt) error {
	f, err := elf.NewFile(r)
	if err != nil {
		return fmt.Errorf("not an ELF vmlinux: %w", err)
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("vmlinux is for %s %s, not for x86-64", f.Class, f.Machine)
	}
	if f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN {
		return fmt.Errorf("vmlinux is of ELF type %s, not an executable", f.Type)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_NOTE && hasPVHNote(p) {
			return nil
		}
	}
	return errors.New("vmlinux has no PVH entry point (CONFIG_PVH)")
}

// hasPVHNote looks for the note of owner "Xen" and type
// XEN_ELFNOTE_PHYS32_ENTRY (Xen, public/elfnote.h), by which VMMs enter.
func hasPVHNote(p *elf.Prog) bool {
	const (
		phys32Entry = 18
		maxNotes    = 1 << 20
	)
	b, err := io.ReadAll(io.LimitReader(p.Open(), maxNotes))
	if err != nil {
		return false
	}
	for len(b) >= 12 {
		name := uint64(binary.LittleEndian.Uint32(b))
		desc := uint64(binary.LittleEndian.Uint32(b[4:]))
		kind := binary.LittleEndian.Uint32(b[8:])
		b = b[12:]
		end := align4(name) + align4(desc)
		if end > uint64(len(b)) {
			return false
		}
		if kind == phys32Entry && string(b[:name]) == "Xen\x00" {
			return true
		}
		b = b[end:]
	}
	return false
}

func align4(n uint64) uint64 { return (n + 3) &^ 3 }

// findRelease scans for the kernel's banner, "Linux version X (". The format
// string of the same text is told apart by the digit that must follow.
func findRelease(r io.Reader) (string, error) {
	const (
		banner     = "Linux version "
		maxRelease = 64 // __NEW_UTS_LEN
	)
	keep := len(banner) + maxRelease + 1
	buf := make([]byte, 1<<20)
	have := 0
	for {
		n, err := io.ReadFull(r, buf[have:])
		have += n
		last := err != nil
		if release, ok := releaseIn(buf[:have], banner); ok {
			return release, nil
		}
		if last {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errors.New("no version banner")
			}
			return "", err
		}
		have = copy(buf, buf[have-keep:have])
	}
}

func releaseIn(b []byte, banner string) (string, bool) {
	for {
		i := bytes.Index(b, []byte(banner))
		if i < 0 {
			return "", false
		}
		b = b[i+len(banner):]
		end := bytes.IndexByte(b, ' ')
		if end > 0 && end <= 64 && b[0] >= '0' && b[0] <= '9' && validRelease(b[:end]) {
			return string(b[:end]), true
		}
	}
}

// validRelease holds for what may also be a file name.
func validRelease(b []byte) bool {
	for _, c := range b {
		ok := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
			c == '.' || c == '-' || c == '_' || c == '+' || c == '~'
		if !ok {
			return false
		}
	}
	return len(b) > 0 && b[0] != '.'
}
