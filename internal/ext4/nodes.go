package ext4

import "fmt"

// nodeWriter writes the inodes of a tree, in their order, and the blocks that
// belong to each.
type nodeWriter struct {
	w       *Writer
	tree    *tree
	table   *stream // inodes
	meta    *stream // directories, extent trees, attributes, long targets
	entries []dirent
	next    uint32 // number that the table's next inode has, from 1
}

func (nw *nodeWriter) write(n *Node) error {
	ino, err := nw.inode(n)
	if err != nil {
		return fmt.Errorf("write inode %d: %w", n.ino, err)
	}
	// The reserved inodes before the first file stay zero.
	for ; nw.next < n.ino-1; nw.next++ {
		if _, err := nw.table.grow(inodeSize); err != nil {
			return err
		}
	}
	b, err := nw.table.grow(inodeSize)
	if err != nil {
		return err
	}
	nw.next++
	ino.encode(b, nw.w.seed, n.ino)
	return nil
}

// inode writes the blocks of a node, and returns its inode.
func (nw *nodeWriter) inode(n *Node) (*inode, error) {
	ino := &inode{
		mode:    uint16(n.Mode),
		uid:     n.UID,
		gid:     n.GID,
		links:   uint16(n.links),
		modTime: n.ModTime,
	}
	var err error
	switch n.Mode & TypeMask {
	case TypeRegular:
		if n.Data != nil {
			ino.size = uint64(n.Data.size)
			err = nw.extents(ino, n, n.Data.extents)
		} else {
			err = nw.extents(ino, n, nil)
		}
	case TypeDir:
		if n.links > MaxLinks {
			ino.links = 1 // not counted any more: the dir_nlink feature
		}
		err = nw.directory(ino, n)
	case TypeSymlink:
		err = nw.symlink(ino, n)
	case TypeBlock, TypeChar:
		encodeDevice(&ino.block, n.Major, n.Minor)
	}
	if err != nil {
		return nil, err
	}
	return ino, nw.xattrs(ino, n)
}

// extents makes list the content of an inode.
func (nw *nodeWriter) extents(ino *inode, n *Node, list []extent) error {
	for _, e := range list {
		ino.blocks += uint64(e.count)
	}
	ino.blocks += extentBlocks(len(list))
	ino.flags |= inodeExtents
	root, err := extentTree(list, inodeSeed(nw.w.seed, n.ino), nw.meta.add)
	ino.block = root
	return err
}

func (nw *nodeWriter) directory(ino *inode, n *Node) error {
	nw.entries = nw.entries[:0]
	for name, child := range n.Children {
		nw.entries = append(nw.entries, dirent{ino: child.ino, kind: direntKind(child.Mode), name: name})
	}
	first := nw.meta.next()
	dw := dirWriter{ino: n.ino, parent: n.parent, seed: inodeSeed(nw.w.seed, n.ino), add: nw.addMeta}
	for i := range dw.hashSeed {
		dw.hashSeed[i] = le.Uint32(nw.w.opts.UUID[4*i:])
	}
	indexed, err := dw.write(nw.entries)
	if err != nil {
		return err
	}
	if indexed {
		ino.flags |= inodeIndexed
	}
	count := nw.meta.next() - first
	ino.size = count * blockSize
	return nw.extents(ino, n, contiguous(first, count))
}

func (nw *nodeWriter) addMeta(block []byte) error {
	_, err := nw.meta.add(block)
	return err
}

// contiguous returns the extents of a file whose blocks lie in a row.
func contiguous(first, count uint64) []extent {
	var list []extent
	for at := uint64(0); at < count; at += maxExtentBlocks {
		list = append(list, extent{uint32(at), uint32(first + at), uint32(min(count-at, maxExtentBlocks))})
	}
	return list
}

// symlink keeps a short target in the inode, where the kernel expects a zero
// behind it, and a long one in a block.
func (nw *nodeWriter) symlink(ino *inode, n *Node) error {
	ino.size = uint64(len(n.Target))
	if len(n.Target) < inodeBlockLen {
		copy(ino.block[:], n.Target)
		return nil
	}
	at, err := nw.meta.add([]byte(n.Target))
	if err != nil {
		return err
	}
	return nw.extents(ino, n, contiguous(at, 1))
}

func (nw *nodeWriter) xattrs(ino *inode, n *Node) error {
	set, err := newXattrSet(n.Xattrs)
	if err != nil {
		return err
	}
	ino.xattrs = set.encodeBody()
	if len(set.block) == 0 {
		return nil
	}
	ino.xattrBlk = nw.meta.next()
	ino.blocks++
	return nw.addMeta(set.encodeBlock(ino.xattrBlk, nw.w.seed))
}
