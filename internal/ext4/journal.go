package ext4

import "encoding/binary"

const journalInode = 8

// journalBlocks returns the size of the journal of a file system, as
// ext2fs_default_journal_size of e2fsprogs has it.
func journalBlocks(blocks uint64) uint64 {
	sizes := []struct{ below, journal uint64 }{
		{32 << 10, 1 << 10},
		{256 << 10, 4 << 10},
		{512 << 10, 8 << 10},
		{4 << 20, 16 << 10},
		{8 << 20, 32 << 10},
		{16 << 20, 64 << 10},
		{32 << 20, 128 << 10},
	}
	for _, s := range sizes {
		if blocks < s.below {
			return s.journal
		}
	}
	return 256 << 10
}

// journalSuperblock returns the first block of an empty journal. The others may
// hold anything, and so stay holes. The journal's numbers are big endian
// (include/linux/jbd2.h).
func journalSuperblock(blocks uint64, uuid [16]byte) []byte {
	b := make([]byte, blockSize)
	put32 := func(off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }
	put32(0x00, 0xC03B3998) // magic
	put32(0x04, 4)          // superblock, version 2
	put32(0x0C, blockSize)
	put32(0x10, uint32(blocks))
	put32(0x14, 1) // first block of the log
	put32(0x18, 1) // first expected commit
	put32(0x1C, 0) // start of the log: it is empty
	copy(b[0x30:], uuid[:])
	put32(0x40, 1) // file systems that use it
	return b
}
