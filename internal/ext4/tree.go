package ext4

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// tree is the numbered form of what Finish is given.
type tree struct {
	// nodes are in the order of their inode numbers: the root, then directory
	// after directory the entries of each. So neighbours in a directory are
	// neighbours in the inode table.
	nodes []*Node

	metaMax uint64 // upper bound of the blocks that nodes need beside content
}

// newTree numbers all nodes under root, counts their names and checks them.
func newTree(root *Node) (*tree, error) {
	if root == nil || !root.IsDir() {
		return nil, errdefs.New(errdefs.Invalid, "TREE_INVALID", "the root of a tree must be a directory")
	}
	t := &tree{}
	if err := t.add(root, rootInode); err != nil {
		return nil, locate("/", err)
	}
	for i := 0; i < len(t.nodes); i++ {
		if t.nodes[i].IsDir() {
			if err := t.addChildren(t.nodes[i]); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

func inodeNumber(i int) uint32 {
	if i == 0 {
		return rootInode
	}
	return uint32(firstInode - 1 + i)
}

// node returns the node of a number that was given.
func (t *tree) node(ino uint32) *Node {
	if ino == rootInode {
		return t.nodes[0]
	}
	if i := int(ino) - firstInode + 1; i > 0 && i < len(t.nodes) {
		return t.nodes[i]
	}
	return nil
}

// add gives n the next number. The root's parent is itself.
func (t *tree) add(n *Node, parent uint32) error {
	if n.ino != 0 {
		return errdefs.New(errdefs.Invalid, "TREE_INVALID", "a node was given twice")
	}
	meta, err := n.check()
	if err != nil {
		return err
	}
	if len(t.nodes) == 1<<32-firstInode {
		return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_MANY_FILES", "more files than inode numbers")
	}
	n.ino, n.parent, n.links = inodeNumber(len(t.nodes)), parent, 1
	if n.IsDir() {
		n.links = 2 // its name and its "."
	}
	t.nodes = append(t.nodes, n)
	t.metaMax += meta
	return nil
}

// addChildren numbers the entries of a directory, in the order of their names.
func (t *tree) addChildren(dir *Node) error {
	size := uint64(2 * direntSize(2))
	for _, name := range slices.Sorted(maps.Keys(dir.Children)) {
		if err := t.addChild(dir, name); err != nil {
			return locate(t.path(dir, name), err)
		}
		size += uint64(direntSize(len(name)))
	}
	if err := checkDirSize(size); err != nil {
		return locate(t.path(t.node(dir.parent), t.name(dir)), err)
	}
	t.metaMax += dirBlocksMax(size)
	return nil
}

func (t *tree) addChild(dir *Node, name string) error {
	n := dir.Children[name]
	if err := checkName(name); err != nil {
		return err
	}
	switch {
	case n == nil:
		return errdefs.New(errdefs.Invalid, "TREE_INVALID", "a name leads to no file")
	case n.ino == 0:
		if n.IsDir() {
			dir.links++ // its ".."
		}
		return t.add(n, dir.ino)
	case t.node(n.ino) != n:
		return errdefs.New(errdefs.Invalid, "TREE_INVALID", "a file belongs to another tree")
	case n.IsDir():
		return errdefs.New(errdefs.Invalid, "TREE_INVALID", "a directory has a second name")
	case n.links == MaxLinks:
		return errdefs.New(errdefs.Exhausted, "TOO_MANY_LINKS", "a file has more than %d names", MaxLinks)
	}
	n.links++
	return nil
}

// path returns the path of a name in a directory, for errors.
func (t *tree) path(dir *Node, name string) string {
	parts := []string{name}
	for dir.ino != rootInode {
		parts = append(parts, t.name(dir))
		dir = t.node(dir.parent)
	}
	slices.Reverse(parts)
	return "/" + strings.Join(parts, "/")
}

// name returns a name that n has in its directory.
func (t *tree) name(n *Node) string {
	for name, child := range t.node(n.parent).Children {
		if child == n {
			return name
		}
	}
	return ""
}

// locate adds the path of a file to an error, and keeps its kind.
func locate(path string, err error) error {
	return errdefs.New(errdefs.KindOf(err), errdefs.CodeOf(err), "%q: %w", path, err)
}

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return errdefs.New(errdefs.Invalid, "FILE_NAME_INVALID", "%q is no file name", name)
	}
	if len(name) > MaxNameLen {
		return errdefs.New(errdefs.Exhausted, "FILE_NAME_TOO_LONG", "file name of %d bytes is longer than %d", len(name), MaxNameLen)
	}
	return nil
}

// check reports what the format cannot hold, and how many blocks the node needs
// beside its content; a directory's entries are not counted.
func (n *Node) check() (meta uint64, err error) {
	switch n.Mode & TypeMask {
	case TypeRegular:
		if n.Data != nil {
			meta = extentBlocks(len(n.Data.extents))
		}
	case TypeSymlink:
		if n.Target == "" || strings.Contains(n.Target, "\x00") {
			err = errdefs.New(errdefs.Invalid, "SYMLINK_INVALID", "%q is no symlink target", n.Target)
		} else if len(n.Target) > MaxTargetLen {
			err = errdefs.New(errdefs.Exhausted, "SYMLINK_TOO_LONG", "symlink target of %d bytes is longer than %d", len(n.Target), MaxTargetLen)
		}
		meta = 1
	case TypeBlock, TypeChar:
		if n.Major >= 1<<12 || n.Minor >= 1<<20 {
			err = errdefs.New(errdefs.Invalid, "DEVICE_INVALID", "%d:%d is no device number", n.Major, n.Minor)
		}
	case TypeDir, TypeFIFO, TypeSocket:
	default:
		err = errdefs.New(errdefs.Invalid, "FILE_TYPE_INVALID", "mode %#o has no file type", n.Mode)
	}
	set, xerr := newXattrSet(n.Xattrs)
	if len(set.block) > 0 {
		meta++
	}
	return meta, errors.Join(err, xerr)
}
