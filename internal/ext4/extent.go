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
