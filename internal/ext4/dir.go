package ext4

import (
	"cmp"
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	direntHeader = 8
	dirTailSize  = 12                      // entry without a name that holds a checksum
	dirSpace     = blockSize - dirTailSize // for entries in a block
	maxDirent    = direntHeader + 256      // with the longest name
	dirTailType  = 0xDE

	dxRootHeader = 32 // "." and "..", then what describes the tree
	dxNodeHeader = 8  // an entry without a name
	dxEntrySize  = 8
	dxTailSize   = 8
	dxRootLimit  = (blockSize - dxRootHeader - dxTailSize) / dxEntrySize
	dxNodeLimit  = (blockSize - dxNodeHeader - dxTailSize) / dxEntrySize
	maxDirLeaves = dxRootLimit * dxNodeLimit
)

// dirent is one name in a directory.
type dirent struct {
	hash uint32
	ino  uint32
	kind uint8
	name string
}

func (e *dirent) size() int { return direntSize(len(e.name)) }

// direntSize is rounded up to 4 bytes, as each entry is.
func direntSize(nameLen int) int { return (direntHeader + nameLen + 3) &^ 3 }

// direntKind returns the type that an entry gives of its inode.
func direntKind(mode uint32) uint8 {
	switch mode & TypeMask {
	case TypeRegular:
		return 1
	case TypeDir:
		return 2
	case TypeChar:
		return 3
	case TypeBlock:
		return 4
	case TypeFIFO:
		return 5
	case TypeSocket:
		return 6
	default:
		return 7 // symlink
	}
}

// dirLeavesMax returns an upper bound of the leaves for entries that take size
// bytes: one is only left when the next entry does not fit.
func dirLeavesMax(size uint64) uint64 { return size/(dirSpace-maxDirent+1) + 1 }

// checkDirSize refuses a directory whose tree might need a third level, at
// about 940 MiB of entries.
func checkDirSize(size uint64) error {
	if dirLeavesMax(size) > maxDirLeaves {
		return errdefs.New(errdefs.Exhausted, "DIRECTORY_TOO_LARGE", "a directory with %d bytes of entries is too large", size)
	}
	return nil
}

// dirBlocksMax returns an upper bound of the blocks of a directory whose
// entries take size bytes, "." and ".." included.
func dirBlocksMax(size uint64) uint64 {
	if size <= dirSpace {
		return 1
	}
	leaves := dirLeavesMax(size)
	return 1 + ceilDiv(leaves, dxNodeLimit) + leaves
}

// dirWriter lays out one directory and gives its blocks to add, in their order.
type dirWriter struct {
	ino, parent uint32
	seed        uint32    // of checksums: the inode's
	hashSeed    [4]uint32 // the file system's
	add         func(block []byte) error
}

// write returns whether the directory has a hash tree. Entries come in any
// order and are sorted in place.
func (w *dirWriter) write(entries []dirent) (indexed bool, err error) {
	size := 2 * direntSize(2)
	for i := range entries {
		size += entries[i].size()
	}
	if size > dirSpace {
		return true, w.writeTree(entries)
	}
	slices.SortFunc(entries, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	all := make([]dirent, 0, len(entries)+2)
	all = append(all, dirent{ino: w.ino, kind: 2, name: "."}, dirent{ino: w.parent, kind: 2, name: ".."})
	return false, w.writeLeaf(append(all, entries...))
}

// writeLeaf adds a block of entries, which must fit.
func (w *dirWriter) writeLeaf(entries []dirent) error {
	var b [blockSize]byte
	off := 0
	for i := range entries {
		e := &entries[i]
		n := e.size()
		if i == len(entries)-1 {
			n = dirSpace - off // the last one reaches to the end
		}
		putDirent(b[off:], e, n)
		off += n
	}
	tail := b[dirSpace:]
	le.PutUint16(tail[4:], dirTailSize)
	tail[7] = dirTailType
	le.PutUint32(tail[8:], crc32c(w.seed, b[:dirSpace]))
	return w.add(b[:])
}

func putDirent(b []byte, e *dirent, size int) {
	le.PutUint32(b[0:], e.ino)
	le.PutUint16(b[4:], uint16(size))
	b[6] = uint8(len(e.name))
	b[7] = e.kind
	copy(b[direntHeader:], e.name)
}

// dirLeaf is a run of entries that go into one block, and the least hash that
// is looked up there.
type dirLeaf struct {
	from, to int
	hash     uint32
}

// writeTree adds a directory as a hash tree: the root, index blocks when the
// root cannot name all leaves, and the leaves in the order of their hashes.
func (w *dirWriter) writeTree(entries []dirent) error {
	for i := range entries {
		entries[i].hash = nameHash(entries[i].name, w.hashSeed)
	}
	slices.SortFunc(entries, func(a, b dirent) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), strings.Compare(a.name, b.name))
	})
	leaves := packLeaves(entries)
	index := make([]dxEntry, len(leaves))
	for i, l := range leaves {
		index[i] = dxEntry{l.hash, uint32(i + 1)}
	}
	if err := w.writeIndex(index); err != nil {
		return err
	}
	for _, l := range leaves {
		if err := w.writeLeaf(entries[l.from:l.to]); err != nil {
			return err
		}
	}
	return nil
}

// packLeaves fills block after block with entries sorted by hash.
func packLeaves(entries []dirent) []dirLeaf {
	leaves := []dirLeaf{{}}
	used := 0
	for i := range entries {
		n := entries[i].size()
		if used+n > dirSpace {
			h := entries[i].hash
			if h == entries[i-1].hash {
				h |= 1 // says that the block before has names of this hash too
			}
			leaves = append(leaves, dirLeaf{from: i, hash: h})
			used = 0
		}
		used += n
		leaves[len(leaves)-1].to = i + 1
	}
	return leaves
}

// dxEntry leads from a hash to a block of the directory.
type dxEntry struct{ hash, block uint32 }

// writeIndex adds the root and the index blocks for leaves that are numbered
// as if only the root were before them.
func (w *dirWriter) writeIndex(leaves []dxEntry) error {
	if len(leaves) <= dxRootLimit {
		return w.writeRoot(leaves, 0)
	}
	nodes := slices.Collect(slices.Chunk(leaves, dxNodeLimit))
	root := make([]dxEntry, len(nodes))
	for i, n := range nodes {
		root[i] = dxEntry{n[0].hash, uint32(i + 1)}
	}
	if err := w.writeRoot(root, 1); err != nil {
		return err
	}
	for _, n := range nodes {
		for i := range n {
			n[i].block += uint32(len(nodes))
		}
		var b [blockSize]byte
		le.PutUint16(b[4:], blockSize) // one entry without inode and name
		w.putIndex(b[:], dxNodeHeader, dxNodeLimit, n)
		if err := w.add(b[:]); err != nil {
			return err
		}
	}
	return nil
}

func (w *dirWriter) writeRoot(index []dxEntry, levels uint8) error {
	var b [blockSize]byte
	putDirent(b[0:], &dirent{ino: w.ino, kind: 2, name: "."}, 12)
	putDirent(b[12:], &dirent{ino: w.parent, kind: 2, name: ".."}, blockSize-12)
	b[28] = hashHalfMD4
	b[29] = 8 // length of this description
	b[30] = levels
	w.putIndex(b[:], dxRootHeader, dxRootLimit, index)
	return w.add(b[:])
}

// putIndex writes index entries behind a header. The first has no hash: limit
// and count are in its place.
func (w *dirWriter) putIndex(b []byte, header, limit int, index []dxEntry) {
	for i, e := range index {
		p := b[header+i*dxEntrySize:]
		le.PutUint32(p[0:], e.hash)
		le.PutUint32(p[4:], e.block)
	}
	le.PutUint16(b[header:], uint16(limit))
	le.PutUint16(b[header+2:], uint16(len(index)))
	sum := crc32c(w.seed, b[:header+len(index)*dxEntrySize])
	sum = crc32c(sum, make([]byte, dxTailSize)) // the tail with an empty checksum
	le.PutUint32(b[header+limit*dxEntrySize+4:], sum)
}
