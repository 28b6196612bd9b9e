package ext4

import "math/bits"

// Flags of a group.
const (
	groupInodeUninit = 0x1 // inode bitmap is not written: no inode is used
	groupBlockUninit = 0x2 // block bitmap is not written: only the group's own metadata is used
	groupZeroed      = 0x4 // the inode table reads as zeros: the kernel need not write it
)

// groupDesc is the descriptor of one block group.
type groupDesc struct {
	blockBitmap    uint64
	inodeBitmap    uint64
	inodeTable     uint64
	blockBitmapSum uint32
	inodeBitmapSum uint32
	freeBlocks     uint32
	freeInodes     uint32
	dirs           uint32
	unusedInodes   uint32 // at the end of the table
	flags          uint16
}

// encode writes the descriptor of the group into b, descSize bytes.
func (d *groupDesc) encode(b []byte, seed, group uint32) {
	clear(b)
	split32 := func(lo, hi int, v uint64) { le.PutUint32(b[lo:], uint32(v)); le.PutUint32(b[hi:], uint32(v>>32)) }
	split16 := func(lo, hi int, v uint32) { le.PutUint16(b[lo:], uint16(v)); le.PutUint16(b[hi:], uint16(v>>16)) }
	split32(0x00, 0x20, d.blockBitmap)
	split32(0x04, 0x24, d.inodeBitmap)
	split32(0x08, 0x28, d.inodeTable)
	split16(0x0C, 0x2C, d.freeBlocks)
	split16(0x0E, 0x2E, d.freeInodes)
	split16(0x10, 0x30, d.dirs)
	le.PutUint16(b[0x12:], d.flags)
	split16(0x18, 0x38, d.blockBitmapSum)
	split16(0x1A, 0x3A, d.inodeBitmapSum)
	split16(0x1C, 0x32, d.unusedInodes)
	// The field itself is still zero, as the checksum wants it.
	le.PutUint16(b[0x1E:], uint16(crc32c(crc32cUint32(seed, group), b[:descSize])))
}

// bitmap has one bit for each block or inode, as on disk: the lowest bit of the
// first byte comes first.
type bitmap []byte

// set marks count bits from first on. It reports false when one of them was
// marked before, and then leaves the rest as it is.
func (m bitmap) set(first, count uint64) bool {
	for count > 0 {
		i, shift := first/8, first%8
		n := min(count, 8-shift)
		mask := byte((1<<n - 1) << shift)
		if m[i]&mask != 0 {
			return false
		}
		m[i] |= mask
		first, count = first+n, count-n
	}
	return true
}

// next returns the first bit from at on, before end, that has the given state,
// or end.
func (m bitmap) next(at, end uint64, marked bool) uint64 {
	skip := byte(0xFF) // a byte without such a bit
	if marked {
		skip = 0
	}
	for at < end {
		b := m[at/8]
		switch {
		case at%8 == 0 && b == skip:
			at = min(at+8, end)
		case b>>(at%8)&1 == 1 == marked:
			return at
		default:
			at++
		}
	}
	return end
}

// zeros returns how many bits are not marked.
func (m bitmap) zeros() uint32 {
	n := 0
	for _, b := range m {
		n += bits.OnesCount8(^b)
	}
	return uint32(n)
}

// inodeBitmap fills m, one block, for a group whose first used inodes are in use.
func inodeBitmap(m bitmap, used, inodesPerGroup uint32) {
	clear(m)
	m.set(0, uint64(used))
	m.set(uint64(inodesPerGroup), blocksPerGroup-uint64(inodesPerGroup)) // padding is marked
}
