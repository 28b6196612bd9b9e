package ext4

import "time"

// Flags of an inode.
const (
	inodeIndexed = 0x1000  // directory with a hash tree
	inodeExtents = 0x80000 // i_block holds an extent tree
)

const (
	inodeBodyXattrs = 128 + extraIsize            // offset of attributes within an inode
	inodeXattrSpace = inodeSize - inodeBodyXattrs // bytes
	inodeBlockLen   = 60                          // of i_block

	minTime = -1 << 31          // earliest second: int32 with epoch 0
	maxTime = 2<<32 + 1<<31 - 1 // latest second: int32 with epoch 2; e2fsck takes epoch 3 for an old bug
)

// inode is what is stored of one file beside its blocks.
type inode struct {
	mode     uint16
	uid, gid uint32
	size     uint64
	links    uint16
	modTime  time.Time
	flags    uint32
	blocks   uint64 // in use: content, extent tree and attributes
	block    [inodeBlockLen]byte
	xattrBlk uint64
	xattrs   []byte // at most inodeXattrSpace
}

// encode writes the inode into b, inodeSize bytes.
func (n *inode) encode(b []byte, fsSeed, ino uint32) {
	clear(b)
	put16 := func(off int, v uint16) { le.PutUint16(b[off:], v) }
	put32 := func(off int, v uint32) { le.PutUint32(b[off:], v) }
	sectors := n.blocks * (blockSize / 512)
	sec, extra := encodeTime(n.modTime)

	put16(0x00, n.mode)
	put16(0x02, uint16(n.uid))
	put32(0x04, uint32(n.size))
	put16(0x18, uint16(n.gid))
	put16(0x1A, n.links)
	put32(0x1C, uint32(sectors))
	put32(0x20, n.flags)
	copy(b[0x28:], n.block[:])
	put32(0x68, uint32(n.xattrBlk))
	put32(0x6C, uint32(n.size>>32))
	put16(0x74, uint16(sectors>>32))
	put16(0x76, uint16(n.xattrBlk>>32))
	put16(0x78, uint16(n.uid>>16))
	put16(0x7A, uint16(n.gid>>16))
	put16(0x80, extraIsize)
	for _, off := range []int{0x08, 0x0C, 0x10, 0x90} { // access, change, content, birth
		put32(off, sec)
	}
	for _, off := range []int{0x8C, 0x84, 0x88, 0x94} {
		put32(off, extra)
	}
	copy(b[inodeBodyXattrs:], n.xattrs)

	sum := crc32c(inodeSeed(fsSeed, ino), b) // its two fields are still zero
	put16(0x7C, uint16(sum))
	put16(0x82, uint16(sum>>16))
}

// encodeTime returns the two halves of a time stamp: the low 32 bits of the
// seconds, which are signed, and the nanoseconds with two more bits of seconds.
func encodeTime(t time.Time) (sec, extra uint32) {
	s, ns := t.Unix(), t.Nanosecond()
	if s < minTime {
		s, ns = minTime, 0
	}
	if s > maxTime {
		s, ns = maxTime, 999_999_999
	}
	epoch := uint32((s-int64(int32(s)))>>32) & 3
	return uint32(s), uint32(ns)<<2 | epoch
}

// encodeDevice writes a device's number: the old 8+8 bits where they do, else
// the new 12+20 bits (old_encode_dev and new_encode_dev of the kernel).
func encodeDevice(block *[inodeBlockLen]byte, major, minor uint32) {
	if major < 256 && minor < 256 {
		le.PutUint32(block[0:], major<<8|minor)
		return
	}
	le.PutUint32(block[4:], minor&0xFF|major<<8|minor&^0xFF<<12)
}
