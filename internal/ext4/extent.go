package ext4

// extent says where a run of a file's blocks lies. Both kinds of block numbers
// fit 32 bits: file sizes by the format, images by Options.MaxSize.
type extent struct {
	logical uint32 // first block in the file
	start   uint32 // first block in the image
	count   uint32 // blocks, 1 to maxExtentBlocks
}

const (
	inlineExtents   = 4     // as many as fit into an inode
	maxExtentBlocks = 32768 // longest extent: a larger length would mean "unwritten"
)

// appendExtent adds e, which lies behind all of list in the file, or makes the
// last extent longer.
func appendExtent(list []extent, e extent) []extent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.logical+last.count == e.logical && last.start+last.count == e.start && last.count+e.count <= maxExtentBlocks {
			last.count += e.count
			return list
		}
	}
	return append(list, e)
}

const (
	extentMagic      = 0xF30A
	extentEntrySize  = 12                                                  // also of the header
	extentsPerBlock  = (blockSize - extentEntrySize - 4) / extentEntrySize // 4: checksum
	extentTailOffset = extentEntrySize * (extentsPerBlock + 1)
)

// extentBlocks returns how many blocks the tree over as many extents takes
// beside the inode.
func extentBlocks(n int) uint64 {
	total := 0
	for n > inlineExtents {
		n = (n + extentsPerBlock - 1) / extentsPerBlock
		total += n
	}
	return uint64(total)
}

// extentTree writes the blocks of the tree over list through add, which returns
// where a block went, and returns the root for the inode. seed is the inode's.
func extentTree(list []extent, seed uint32, add func([]byte) (uint64, error)) ([inodeBlockLen]byte, error) {
	var root [inodeBlockLen]byte
	for depth := uint16(0); ; depth++ {
		if len(list) <= inlineExtents {
			encodeExtents(root[:], list, inlineExtents, depth)
			return root, nil
		}
		// One level up an entry says where the block with its extents lies.
		var parents []extent
		for len(list) > 0 {
			n := min(len(list), extentsPerBlock)
			var b [blockSize]byte
			encodeExtents(b[:], list[:n], extentsPerBlock, depth)
			le.PutUint32(b[extentTailOffset:], crc32c(seed, b[:extentTailOffset]))
			at, err := add(b[:])
			if err != nil {
				return root, err
			}
			parents = append(parents, extent{logical: list[0].logical, start: uint32(at)})
			list = list[n:]
		}
		list = parents
	}
}

// encodeExtents writes one node of the tree: extents at depth 0, else indexes.
func encodeExtents(b []byte, list []extent, limit int, depth uint16) {
	le.PutUint16(b[0:], extentMagic)
	le.PutUint16(b[2:], uint16(len(list)))
	le.PutUint16(b[4:], uint16(limit))
	le.PutUint16(b[6:], depth)
	for i, e := range list {
		p := b[extentEntrySize*(i+1):]
		le.PutUint32(p[0:], e.logical)
		if depth == 0 {
			le.PutUint16(p[4:], uint16(e.count))
			le.PutUint32(p[8:], e.start)
		} else {
			le.PutUint32(p[4:], e.start)
		}
	}
}
