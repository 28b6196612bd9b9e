package ext4

import (
	"fmt"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Finish adds the tree of names under root, which must be a directory, and
// completes the file system. Data that no Node refers to becomes a hole. What
// the format cannot hold is an error that names the file: errdefs.Invalid or
// Unsupported for what is wrong as such, errdefs.Exhausted beyond a limit. The
// Writer and the tree must not be used afterwards. The caller syncs the file
// before it relies on it.
func (w *Writer) Finish(root *Node) (Stats, error) {
	t, err := newTree(root)
	if err != nil {
		return Stats{}, err
	}
	fin := finisher{w: w, tree: t}
	fin.plan()
	if fin.blocks > w.alloc.limit {
		return Stats{}, w.tooLarge()
	}
	for _, step := range []func() error{fin.writeNodes, fin.shrink, fin.writeGroups, fin.punch} {
		if err := step(); err != nil {
			return Stats{}, err
		}
	}
	return fin.stats(), nil
}

// finisher is one call of Finish. What it adds lies behind all content: the
// block bitmaps of all groups, the inode bitmaps, the inode tables without a
// gap, then directories and other blocks of nodes.
type finisher struct {
	w    *Writer
	tree *tree
	geometry
	bitmaps uint64 // first block of what is added
	table   uint64 // first block of the inode tables
	meta    uint64 // first block behind them
	end     uint64 // first block behind all

	used bitmap   // blocks
	dirs []uint32 // directories of each group
	free uint64   // blocks
}

// plan decides how many groups there are and where the parts lie. The number of
// blocks is an upper bound until shrink.
func (f *finisher) plan() {
	inodes := uint64(inodeNumber(len(f.tree.nodes) - 1))
	f.bitmaps = f.w.alloc.tail
	f.groups = groupCount(f.bitmaps)
	for ; ; f.groups++ {
		perGroup := ceilDiv(max(inodes, firstInode-1), f.groups)
		if perGroup > blocksPerGroup {
			continue // an inode bitmap is one block too
		}
		const perBlock = blockSize / inodeSize
		f.inodesPerGroup = uint32(ceilDiv(perGroup, perBlock) * perBlock)
		f.table = f.bitmaps + 2*f.groups
		f.meta = f.table + f.groups*f.tableBlocks()
		f.blocks = f.meta + f.tree.metaMax
		if groupCount(f.blocks) <= f.groups {
			break
		}
	}
	f.blocks = max(f.blocks, f.leastBlocks())
}

// leastBlocks is the size from which on there are as many groups as planned:
// many small files need more groups for their inodes than for their blocks.
func (f *finisher) leastBlocks() uint64 { return (f.groups-1)*blocksPerGroup + 1 }

// shrink makes the file system as short as what was written.
func (f *finisher) shrink() error {
	f.blocks = max(f.end, f.leastBlocks())
	if err := f.w.f.Truncate(int64(f.blocks) * blockSize); err != nil {
		return diskError(fmt.Errorf("set image size: %w", err))
	}
	return nil
}

// writeNodes writes inodes and all blocks that belong to them.
func (f *finisher) writeNodes() error {
	f.used = make(bitmap, f.groups*blockSize)
	f.dirs = make([]uint32, f.groups)
	nodes := nodeWriter{
		w:     f.w,
		tree:  f.tree,
		table: newStream(f.w.f, f.table),
		meta:  newStream(f.w.f, f.meta),
	}
	for _, n := range f.tree.nodes {
		if n.IsDir() {
			f.dirs[(n.ino-1)/f.inodesPerGroup]++
		}
		if err := nodes.write(n); err != nil {
			return err
		}
		if err := f.claim(n); err != nil {
			return locate(f.tree.path(f.tree.node(n.parent), f.tree.name(n)), err)
		}
	}
	f.end = nodes.meta.next()
	if err := nodes.table.flush(); err != nil {
		return err
	}
	return nodes.meta.flush()
}

// claim marks the blocks of a node's content as used.
func (f *finisher) claim(n *Node) error {
	d := n.Data
	if d == nil || n.Mode&TypeMask != TypeRegular {
		return nil
	}
	if d.w != f.w {
		return errdefs.New(errdefs.Invalid, "TREE_INVALID", "a file's content was discarded or belongs to another image")
	}
	for _, e := range d.extents {
		if !f.used.set(uint64(e.start), uint64(e.count)) {
			return errdefs.New(errdefs.Invalid, "TREE_INVALID", "two files have the same content block %d", e.start)
		}
	}
	return nil
}

// writeGroups writes bitmaps, descriptors and superblock.
func (f *finisher) writeGroups() error {
	descs := descBlocks(f.groups)
	f.used.set(0, 1+descs)
	f.used.set(f.bitmaps, f.end-f.bitmaps)
	f.used.set(f.blocks, f.groups*blocksPerGroup-f.blocks) // padding is marked

	inodes := make([]byte, f.groups*blockSize)
	head := make([]byte, (1+descs)*blockSize)
	inUse := max(inodeNumber(len(f.tree.nodes)-1), firstInode-1)
	sb := superblock{
		geometry: f.geometry,
		uuid:     f.w.opts.UUID,
		label:    f.w.opts.Label,
		created:  f.w.opts.Created,
	}
	for g := range f.groups {
		blockMap, inodeMap := f.used[g*blockSize:(g+1)*blockSize], bitmap(inodes[g*blockSize:(g+1)*blockSize])
		before := uint32(g) * f.inodesPerGroup
		used := min(inUse-min(before, inUse), f.inodesPerGroup)
		inodeBitmap(inodeMap, used, f.inodesPerGroup)
		d := groupDesc{
			blockBitmap:    f.bitmaps + g,
			inodeBitmap:    f.bitmaps + f.groups + g,
			inodeTable:     f.table + g*f.tableBlocks(),
			blockBitmapSum: crc32c(f.w.seed, blockMap),
			inodeBitmapSum: crc32c(f.w.seed, inodeMap[:f.inodesPerGroup/8]),
			freeBlocks:     blockMap.zeros(),
			freeInodes:     f.inodesPerGroup - used,
			unusedInodes:   f.inodesPerGroup - used,
			dirs:           f.dirs[g],
			flags:          groupZeroed,
		}
		d.encode(head[blockSize+g*descSize:][:descSize], f.w.seed, uint32(g))
		sb.freeBlocks += uint64(d.freeBlocks)
		sb.freeInodes += d.freeInodes
	}
	f.free = sb.freeBlocks
	copy(head[superblockOffset:], sb.encode(0))
	if err := writeAt(f.w.f, f.used, f.bitmaps); err != nil {
		return err
	}
	if err := writeAt(f.w.f, inodes, f.bitmaps+f.groups); err != nil {
		return err
	}
	return writeAt(f.w.f, head, 0)
}

// punch makes holes of all free blocks that content may have been written to.
func (f *finisher) punch() error {
	for at := uint64(1); at < f.bitmaps; {
		from := f.used.next(at, f.bitmaps, false)
		at = f.used.next(from, f.bitmaps, true)
		if from == at {
			continue
		}
		if err := f.w.f.punch(int64(from)*blockSize, int64(at-from)*blockSize); err != nil {
			return diskError(fmt.Errorf("free unused blocks: %w", err))
		}
	}
	return nil
}

func (f *finisher) stats() Stats {
	s := Stats{
		Size:       int64(f.blocks) * blockSize,
		UsedBytes:  int64(f.blocks-f.free) * blockSize,
		Inodes:     len(f.tree.nodes),
		MaxInodes:  int(f.groups) * int(f.inodesPerGroup),
		FreeBlocks: int64(f.free),
	}
	for _, n := range f.dirs {
		s.Dirs += int(n)
	}
	return s
}
