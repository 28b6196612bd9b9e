package decompress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/pierrec/lz4/v4"
)

// The legacy frame (lz4, doc/lz4_Frame_format.md, "Legacy frame"): a magic,
// then blocks of {compressed size u32le, data}, each 8 MiB when unpacked but
// for the last. It has no end mark: the stream's end is the frame's.
const (
	legacyMagic = 0x184c2102
	legacyBlock = 8 << 20
)

// legacyLZ4 reads legacy frames, one block in memory at a time.
type legacyLZ4 struct {
	r        io.Reader
	begun    bool
	packed   []byte
	unpacked []byte // what is left of the current block
	block    []byte
	err      error
}

func newLegacyLZ4(r io.Reader) *legacyLZ4 { return &legacyLZ4{r: r} }

func (z *legacyLZ4) Read(p []byte) (int, error) {
	for len(z.unpacked) == 0 && len(p) > 0 {
		if z.err != nil {
			return 0, z.err
		}
		z.err = z.next()
	}
	n := copy(p, z.unpacked)
	z.unpacked = z.unpacked[n:]
	return n, nil
}

// next unpacks one block. A new frame may begin where a block could.
func (z *legacyLZ4) next() error {
	var word [4]byte
	if _, err := io.ReadFull(z.r, word[:]); err != nil {
		if errors.Is(err, io.EOF) && z.begun {
			return io.EOF
		}
		return fmt.Errorf("read lz4 block size: %w", io.ErrUnexpectedEOF)
	}
	size := binary.LittleEndian.Uint32(word[:])
	if size == legacyMagic {
		z.begun = true
		return nil
	}
	if !z.begun || size == 0 || int64(size) > int64(lz4.CompressBlockBound(legacyBlock)) {
		return fmt.Errorf("lz4 block of %d bytes: %w", size, errCorrupt)
	}
	if z.block == nil {
		z.block = make([]byte, legacyBlock)
		z.packed = make([]byte, lz4.CompressBlockBound(legacyBlock))
	}
	if _, err := io.ReadFull(z.r, z.packed[:size]); err != nil {
		return fmt.Errorf("read lz4 block: %w", io.ErrUnexpectedEOF)
	}
	n, err := lz4.UncompressBlock(z.packed[:size], z.block)
	if err != nil {
		return fmt.Errorf("unpack lz4 block: %w", errCorrupt)
	}
	z.unpacked = z.block[:n]
	return nil
}

var errCorrupt = errors.New("corrupt data")
