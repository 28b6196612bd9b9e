package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c continues an ext4 checksum. Unlike hash/crc32 the format inverts
// neither before nor after.
func crc32c(seed uint32, p []byte) uint32 {
	return ^crc32.Update(^seed, castagnoli, p)
}

// crc32cUint32 continues a checksum over the little-endian form of v.
func crc32cUint32(seed, v uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return crc32c(seed, b[:])
}

// crc32cUint64 continues a checksum over the little-endian form of v.
func crc32cUint64(seed uint32, v uint64) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return crc32c(seed, b[:])
}

// inodeSeed starts the checksum of an inode and of all blocks that belong to
// it. Generations are always 0 here.
func inodeSeed(fsSeed, ino uint32) uint32 {
	return crc32cUint32(crc32cUint32(fsSeed, ino), 0)
}
