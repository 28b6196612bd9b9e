package ext4

import (
	"encoding/binary"
	"time"
)

var le = binary.LittleEndian

// Features, as named by the kernel's documentation of the superblock.
const (
	compatHasJournal   = 0x4
	compatExtAttr      = 0x8
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200

	incompatFiletype = 0x2
	incompatExtents  = 0x40
	incompat64Bit    = 0x80
	incompatFlexBG   = 0x200

	roCompatSparseSuper  = 0x1
	roCompatLargeFile    = 0x2
	roCompatHugeFile     = 0x8
	roCompatDirNlink     = 0x20
	roCompatExtraIsize   = 0x40
	roCompatMetadataCsum = 0x400
)

const (
	superblockOffset = 1024 // in block 0
	superblockSize   = 1024
	labelLen         = 16

	firstInode  = 11 // first that is not reserved
	rootInode   = 2
	inodeSize   = 256
	extraIsize  = 32 // up to and with the birth time and project ID
	descSize    = 64 // of a group descriptor, with the 64bit feature
	hashHalfMD4 = 1

	flagUnsignedHash = 0x2 // names are hashed as unsigned bytes, on any CPU
	mountXattrACL    = 0xC // default mount options user_xattr and acl
	checksumCRC32C   = 1
	groupsPerFlexLog = 4
)

// superblock is what differs between the file systems written here.
type superblock struct {
	geometry
	uuid         [16]byte
	label        string
	created      time.Time
	freeBlocks   uint64
	freeInodes   uint32
	compat       uint32    // added to the features of both products
	backupGroup  uint32    // group with the only copy of superblock and descriptors; 0 for none
	journalInode uint32    // 0 for none
	journalBlock *[60]byte // i_block of the journal's inode, copied for repair
	journalSize  uint64    // bytes
}

// geometry is how a file system is cut into groups.
type geometry struct {
	blocks         uint64
	groups         uint64
	inodesPerGroup uint32
}

// groupCount returns how many groups as many blocks make.
func groupCount(blocks uint64) uint64 { return ceilDiv(blocks, blocksPerGroup) }

// descBlocks returns how many blocks the group descriptors take.
func descBlocks(groups uint64) uint64 { return ceilDiv(groups, blockSize/descSize) }

// tableBlocks returns how many blocks the inode table of one group takes.
func (g geometry) tableBlocks() uint64 { return uint64(g.inodesPerGroup) * inodeSize / blockSize }

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }

// encode returns the superblock. group is the one that this copy lies in.
func (s *superblock) encode(group uint32) []byte {
	b := make([]byte, superblockSize)
	put16 := func(off int, v uint16) { le.PutUint16(b[off:], v) }
	put32 := func(off int, v uint32) { le.PutUint32(b[off:], v) }
	split := func(lo, hi int, v uint64) { put32(lo, uint32(v)); put32(hi, uint32(v>>32)) }
	created := uint32(max(s.created.Unix(), 0))

	put32(0x00, uint32(s.groups)*s.inodesPerGroup)
	split(0x04, 0x150, s.blocks)
	split(0x0C, 0x158, s.freeBlocks)
	put32(0x10, s.freeInodes)
	put32(0x18, 2) // block size: 1024 << 2
	put32(0x1C, 2) // cluster size, the same
	put32(0x20, blocksPerGroup)
	put32(0x24, blocksPerGroup)
	put32(0x28, s.inodesPerGroup)
	put32(0x30, created) // last write
	put16(0x36, 0xFFFF)  // no check after a number of mounts
	put16(0x38, 0xEF53)  // magic
	put16(0x3A, 1)       // cleanly unmounted
	put16(0x3C, 1)       // on errors continue
	put32(0x40, created) // last check
	put32(0x4C, 1)       // revision: dynamic inode sizes
	put32(0x54, firstInode)
	put16(0x58, inodeSize)
	put16(0x5A, uint16(group))
	put32(0x5C, compatExtAttr|compatDirIndex|compatSparseSuper2|s.compat)
	put32(0x60, incompatFiletype|incompatExtents|incompat64Bit|incompatFlexBG)
	put32(0x64, roCompatSparseSuper|roCompatLargeFile|roCompatHugeFile|roCompatDirNlink|roCompatExtraIsize|roCompatMetadataCsum)
	copy(b[0x68:0x78], s.uuid[:])
	copy(b[0x78:0x88], s.label)
	put32(0xE0, s.journalInode)
	copy(b[0xEC:0xFC], s.uuid[:]) // seed of directory hashes
	b[0xFC] = hashHalfMD4
	put16(0xFE, descSize)
	put32(0x100, mountXattrACL)
	put32(0x108, created)
	if s.journalBlock != nil {
		b[0xFD] = 1 // the copy is that of an inode's blocks
		copy(b[0x10C:], s.journalBlock[:])
		put32(0x148, uint32(s.journalSize>>32))
		put32(0x14C, uint32(s.journalSize))
	}
	put16(0x15C, extraIsize) // least
	put16(0x15E, extraIsize) // wanted
	put32(0x160, flagUnsignedHash)
	b[0x174] = groupsPerFlexLog
	b[0x175] = checksumCRC32C
	put32(0x24C, s.backupGroup)
	put32(0x3FC, crc32c(^uint32(0), b[:0x3FC]))
	return b
}
