package ext4

import (
	"context"
	"fmt"
)

// write writes the whole file system and waits until it is on the disk.
func (d *disk) write(ctx context.Context, f file) error {
	steps := []func(f file) error{d.setSize, d.writeFiles, d.writeJournal, d.writeInodes, d.writeGroups, d.sync}
	for _, step := range steps {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("create disk: %w", err)
		}
		if err := step(f); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) setSize(f file) error {
	if err := f.Truncate(d.size); err != nil {
		return diskError(fmt.Errorf("set disk size: %w", err))
	}
	return nil
}

func (d *disk) sync(f file) error {
	if err := f.Sync(); err != nil {
		return diskError(fmt.Errorf("sync disk: %w", err))
	}
	return nil
}

// writeFiles writes the blocks of the root directory and of lost+found.
func (d *disk) writeFiles(f file) error {
	s := newStream(f, d.dirs)
	add := func(block []byte) error {
		_, err := s.add(block)
		return err
	}
	root := dirWriter{ino: rootInode, parent: rootInode, seed: inodeSeed(d.seed, rootInode), add: add}
	if _, err := root.write([]dirent{{ino: lostFoundInode, kind: direntKind(TypeDir), name: "lost+found"}}); err != nil {
		return err
	}
	lost := dirWriter{ino: lostFoundInode, parent: rootInode, seed: inodeSeed(d.seed, lostFoundInode), add: add}
	if _, err := lost.write(nil); err != nil {
		return err
	}
	for range lostFoundSize - 1 {
		if err := lost.writeLeaf([]dirent{{}}); err != nil { // one entry without a name
			return err
		}
	}
	return s.flush()
}

func (d *disk) writeJournal(f file) error {
	b := journalSuperblock(journalBlocks(d.blocks), d.uuid)
	return writeAt(f, b, uint64(d.journal[0].start))
}

// writeInodes writes the inodes of the two directories and the journal, and
// what of the journal's extents its inode does not hold.
func (d *disk) writeInodes(f file) error {
	table := make([]byte, blockSize)
	put := func(number uint32, n inode) {
		n.modTime, n.flags = d.created, inodeExtents
		n.encode(table[(number-1)*inodeSize:][:inodeSize], d.seed, number)
	}
	dir := inode{mode: TypeDir | 0o755, links: 3, size: blockSize, blocks: 1}
	encodeExtents(dir.block[:], contiguous(d.dirs, 1), inlineExtents, 0)
	put(rootInode, dir)
	dir = inode{mode: TypeDir | 0o700, links: 2, size: lostFoundSize * blockSize, blocks: lostFoundSize}
	encodeExtents(dir.block[:], contiguous(d.dirs+1, lostFoundSize), inlineExtents, 0)
	put(lostFoundInode, dir)
	journal, err := d.journalTree(f)
	if err != nil {
		return err
	}
	blocks := journalBlocks(d.blocks)
	put(journalInode, inode{
		mode:   TypeRegular | 0o600,
		links:  1,
		size:   blocks * blockSize,
		blocks: blocks + extentBlocks(len(d.journal)),
		block:  journal,
	})
	return writeAt(f, table, d.group(0).inodeTable)
}

// journalTree writes the journal's extent tree: one block at most, as the
// largest journal lies in nine groups.
func (d *disk) journalTree(f file) ([inodeBlockLen]byte, error) {
	return extentTree(d.journal, inodeSeed(d.seed, journalInode), func(block []byte) (uint64, error) {
		return d.tree, writeAt(f, block, d.tree)
	})
}

// group returns the descriptor of a group as if it were untouched.
func (d *disk) group(group uint64) groupDesc {
	at := group*blocksPerGroup + d.copies(group)
	return groupDesc{
		blockBitmap:  at,
		inodeBitmap:  at + 1,
		inodeTable:   at + 2,
		freeBlocks:   uint32(d.groupBlocks(group) - d.overhead(group)),
		freeInodes:   d.inodesPerGroup,
		unusedInodes: d.inodesPerGroup,
		flags:        groupInodeUninit | groupBlockUninit | groupZeroed,
	}
}

// writeGroups writes the bitmaps of touched groups, then descriptors and
// superblock.
func (d *disk) writeGroups(f file) error {
	journal, err := d.journalTree(f)
	if err != nil {
		return err
	}
	sb := superblock{
		geometry:     d.geometry,
		uuid:         d.uuid,
		created:      d.created,
		compat:       compatHasJournal,
		backupGroup:  uint32(d.backupGroup()),
		journalInode: journalInode,
		journalBlock: &journal,
		journalSize:  journalBlocks(d.blocks) * blockSize,
	}
	head := make([]byte, (1+descBlocks(d.groups))*blockSize)
	for g := range d.groups {
		desc := d.group(g)
		if err := d.touch(f, g, &desc); err != nil {
			return err
		}
		desc.encode(head[blockSize+g*descSize:][:descSize], d.seed, uint32(g))
		sb.freeBlocks += uint64(desc.freeBlocks)
		sb.freeInodes += desc.freeInodes
	}
	if b := d.backupGroup(); b > 0 {
		copy(head, sb.encode(uint32(b))) // copies begin with the block
		if err := writeAt(f, head, b*blocksPerGroup); err != nil {
			return err
		}
		clear(head[:superblockOffset])
	}
	copy(head[superblockOffset:], sb.encode(0))
	return writeAt(f, head, 0)
}

// touch writes the bitmaps of a group that files lie in, and of the last one,
// whose bitmap has padding, and completes its descriptor.
func (d *disk) touch(f file, group uint64, desc *groupDesc) error {
	files := d.filesIn(group)
	if len(files) == 0 && group != d.groups-1 {
		return nil
	}
	first := group * blocksPerGroup
	blocks := make(bitmap, blockSize)
	blocks.set(0, d.overhead(group))
	blocks.set(d.groupBlocks(group), blocksPerGroup-d.groupBlocks(group))
	for _, s := range files {
		blocks.set(s.start-first, s.count)
	}
	desc.freeBlocks = blocks.zeros()
	desc.blockBitmapSum = crc32c(d.seed, blocks)
	desc.flags &^= groupBlockUninit
	if err := writeAt(f, blocks, desc.blockBitmap); err != nil {
		return err
	}
	if group != 0 {
		return nil
	}
	inodes := make(bitmap, blockSize)
	inodeBitmap(inodes, lostFoundInode, d.inodesPerGroup)
	desc.freeInodes -= lostFoundInode
	desc.unusedInodes -= lostFoundInode
	desc.dirs = 2
	desc.inodeBitmapSum = crc32c(d.seed, inodes[:d.inodesPerGroup/8])
	desc.flags &^= groupInodeUninit
	return writeAt(f, inodes, desc.inodeBitmap)
}

// filesIn returns the blocks of a group that directories and journal take.
func (d *disk) filesIn(group uint64) []span {
	var list []span
	if group == 0 {
		list = append(list, span{d.dirs, 1 + lostFoundSize}, span{d.tree, extentBlocks(len(d.journal))})
	}
	for _, e := range d.journal {
		if uint64(e.start)/blocksPerGroup == group {
			list = append(list, span{uint64(e.start), uint64(e.count)})
		}
	}
	return list
}
