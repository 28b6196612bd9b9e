package kernel

import (
	"bytes"
	"debug/elf"
	"slices"
)

// Where some fields of an ELF64 header and of a section header are.
const (
	elfShoff      = 40
	elfShentsize  = 58
	sectionOffset = 24
	sectionSize   = 32
)

// maxAlign is the largest alignment that sections of modules ask for in a file,
// in bytes.
const maxAlign = 64

// dropBTF returns an unsigned module with an empty .BTF section: the types of its
// code, for BPF programs that hook into it. A kernel reads that section when it
// loads the module, for which it first reads and checks the 4 MiB of its own
// types: work that no boot needs, and memory that small guests do not have. What
// is no ELF64 file with such a section is returned as it is.
func dropBTF(module []byte) []byte {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil || f.Class != elf.ELFCLASS64 {
		return module
	}
	btf := f.Section(".BTF")
	if btf == nil || btf.Type != elf.SHT_PROGBITS || btf.Flags&elf.SHF_ALLOC != 0 {
		return module
	}
	headers := f.ByteOrder.Uint64(module[elfShoff:])
	end := btf.Offset + btf.FileSize
	if end < btf.Offset || end > headers || headers > uint64(len(module)) {
		return module // the headers come last in what compilers make
	}
	cut := btf.FileSize &^ (maxAlign - 1)
	moved := func(offset uint64) uint64 {
		if offset < end {
			return offset
		}
		return offset - cut
	}
	out := slices.Delete(bytes.Clone(module), int(btf.Offset), int(btf.Offset+cut))
	f.ByteOrder.PutUint64(out[elfShoff:], moved(headers))
	entry := uint64(f.ByteOrder.Uint16(out[elfShentsize:]))
	for i, s := range f.Sections {
		header := out[moved(headers)+uint64(i)*entry:]
		f.ByteOrder.PutUint64(header[sectionOffset:], moved(s.Offset))
		if s == btf {
			f.ByteOrder.PutUint64(header[sectionSize:], 0)
		}
	}
	return out
}
