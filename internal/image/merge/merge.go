// Package merge joins the entries of an image's layers into the one tree of
// files that the image shows.
//
// A Tree takes layers from the lowest to the highest, each entry in the order
// of its archive, as if each were unpacked over what is there: paths are
// followed through symbolic links, within the root; a directory over a
// directory changes its metadata, everything else replaces what was there; a
// whiteout removes what lower layers have and leaves what its own layer has
// made, whichever comes first; a hard link is another name of the file that its
// target names at that moment, and keeps the file when the target goes. The
// result is what umoci's unpack gives, which is tested entry by entry, but for
// the time of directories that no layer describes: theirs is 1970, not now.
//
// What is not here: reading archives (package layer) and writing the file
// system (package ext4). A Tree is used by one goroutine.
package merge

import (
	"context"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/ext4"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
)

// maxLinks bounds the symbolic links that one path leads through, as the kernel
// does (MAXSYMLINKS in include/linux/namei.h).
const maxLinks = 40

// Tree is the state after the layers that were applied.
type Tree struct {
	root  *file
	layer int // number of the layer that is applied
	quota *layer.Quota
}

// file is one inode. A directory knows its only name and its parent; other
// files may have several names.
type file struct {
	*ext4.Node
	children map[string]*name // of a directory
	parent   *file            // of a directory; nil for the root
	self     *name            // of a directory; nil for the root
	depth    int              // of a directory: components of its path
	links    int              // of other files: names that were given to it
}

// name is an entry of a directory.
type name struct {
	file  *file
	layer int // the last layer that made it, or something below it
}

// New returns a Tree with an empty root. q is the quota that the layers were
// read with: it bounds the depth of paths, which may grow through links, and
// counts the directories that no layer describes.
func New(q *layer.Quota) *Tree {
	return &Tree{root: newDir(nil, nil), quota: q}
}

// Apply adds the next layer. After an error, which may be that of ctx, the Tree
// is of no use.
func (t *Tree) Apply(ctx context.Context, l *layer.Layer) error {
	t.layer++
	for _, e := range l.Entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := t.apply(e); err != nil {
			return err
		}
	}
	return nil
}

// Finish returns the root of the merged tree. The Tree must not be used
// afterwards.
func (t *Tree) Finish() *ext4.Node {
	finish(t.root)
	return t.root.Node
}

// finish is as deep as the tree, which the quota bounds.
func finish(dir *file) {
	dir.Children = make(map[string]*ext4.Node, len(dir.children))
	for base, n := range dir.children {
		if n.file.children != nil {
			finish(n.file)
		}
		dir.Children[base] = n.file.Node
	}
	dir.children = nil
}

func (t *Tree) apply(e *layer.Entry) error {
	switch e.Kind {
	case layer.Whiteout:
		return t.whiteout(e.Path)
	case layer.Opaque:
		return t.opaque(e.Path)
	}
	if e.Path == "" {
		setMeta(t.root, e)
		return nil
	}
	dirPath, base := split(e.Path)
	dir, err := t.makeDir(dirPath)
	if err != nil {
		return err
	}
	if dir.depth >= t.quota.MaxDepth {
		return layer.TooDeep(t.quota.MaxDepth)
	}
	if err := t.put(dir, base, e); err != nil {
		return err
	}
	t.touch(dir)
	return nil
}

// put makes the file that e describes in dir.
func (t *Tree) put(dir *file, base string, e *layer.Entry) error {
	if old := dir.children[base]; old != nil && e.Kind == layer.Dir && old.file.children != nil {
		old.layer = t.layer
		setMeta(old.file, e)
		return nil
	}
	delete(dir.children, base)
	n := &name{layer: t.layer}
	switch e.Kind {
	case layer.Hardlink:
		target, err := t.linkTarget(e)
		if err != nil {
			return err
		}
		n.file = target
	case layer.Dir:
		n.file = newDir(dir, n)
		setMeta(n.file, e)
	default:
		n.file = newFile(e)
	}
	dir.children[base] = n
	return nil
}

// linkTarget finds the file that a hard link names at this moment.
func (t *Tree) linkTarget(e *layer.Entry) (*file, error) {
	dirPath, base := split(e.Link)
	dir, missing, err := t.walk(dirPath)
	if err != nil {
		return nil, err
	}
	n := dir.children[base]
	if len(missing) > 0 || n == nil || n.file.children != nil {
		return nil, layer.Corrupt(nil, "layer has the hard link %.300q to %.300q, which is no file at that point", e.Path, e.Link)
	}
	if n.file.links++; n.file.links > ext4.MaxLinks {
		return nil, errdefs.New(errdefs.Exhausted, "IMAGE_TOO_MANY_LINKS", "image has a file of more than %d names, one is %.300q", ext4.MaxLinks, e.Path)
	}
	return n.file, nil
}

// whiteout removes a path as far as lower layers made it.
func (t *Tree) whiteout(path string) error {
	dirPath, base := split(path)
	dir, missing, err := t.walk(dirPath)
	if err != nil || len(missing) > 0 {
		return err
	}
	if n := dir.children[base]; n != nil {
		t.removeLower(dir, base, n)
	}
	return nil
}

// opaque empties a directory of what lower layers made.
func (t *Tree) opaque(path string) error {
	dir, missing, err := t.walk(path)
	if err != nil || len(missing) > 0 {
		return err
	}
	for base, n := range dir.children {
		t.removeLower(dir, base, n)
	}
	return nil
}

// removeLower removes n unless this layer touched it: then it goes on below.
func (t *Tree) removeLower(dir *file, base string, n *name) {
	if n.layer != t.layer {
		delete(dir.children, base)
		return
	}
	for below, child := range n.file.children {
		t.removeLower(n.file, below, child)
	}
}

// touch marks dir, and what leads to it, as made by this layer.
func (t *Tree) touch(dir *file) {
	for ; dir.self != nil && dir.self.layer != t.layer; dir = dir.parent {
		dir.self.layer = t.layer
	}
}

// makeDir returns the directory that path leads to, and makes what is missing.
func (t *Tree) makeDir(path string) (*file, error) {
	dir, missing, err := t.walk(path)
	if err != nil {
		return nil, err
	}
	if dir.depth+len(missing) > t.quota.MaxDepth {
		return nil, layer.TooDeep(t.quota.MaxDepth)
	}
	for _, base := range missing {
		if err := t.quota.AddEntry(); err != nil {
			return nil, err
		}
		if dir.children[base] != nil {
			return nil, layer.Corrupt(nil, "layer has entries below %.300q, which is no directory", base)
		}
		n := new(name) // touch marks it, with what leads to it
		n.file = newDir(dir, n)
		dir.children[base] = n
		dir = n.file
	}
	return dir, nil
}

// walk follows path through directories and symbolic links, never out of the
// root. It returns the last directory there is and the names that remain.
func (t *Tree) walk(path string) (*file, []string, error) {
	dir, links := t.root, 0
	var missing []string
	for path != "" {
		var part string
		part, path, _ = strings.Cut(path, "/")
		switch {
		case part == "" || part == ".":
			continue
		case part == ".." && len(missing) > 0:
			missing = missing[:len(missing)-1]
			continue
		case part == "..":
			if dir.parent != nil {
				dir = dir.parent
			}
			continue
		}
		n := dir.children[part]
		switch {
		case len(missing) > 0 || n == nil:
			missing = append(missing, part)
		case n.file.children != nil:
			dir = n.file
		case n.file.Mode&ext4.TypeMask == ext4.TypeSymlink:
			if links++; links > maxLinks {
				return nil, nil, layer.Corrupt(nil, "layer has a path through too many symbolic links, one is %.300q", part)
			}
			if strings.HasPrefix(n.file.Target, "/") {
				dir = t.root
			}
			path = n.file.Target + "/" + path
		default:
			missing = append(missing, part)
		}
	}
	return dir, missing, nil
}

// newDir returns a directory without metadata; the root has no parent.
func newDir(parent *file, self *name) *file {
	dir := &file{
		Node:     &ext4.Node{Mode: ext4.TypeDir | 0o755, ModTime: time.Unix(0, 0)},
		children: make(map[string]*name),
		parent:   parent,
		self:     self,
	}
	if parent != nil {
		dir.depth = parent.depth + 1
	}
	return dir
}

var types = map[layer.Kind]uint32{
	layer.Regular: ext4.TypeRegular,
	layer.Symlink: ext4.TypeSymlink,
	layer.Char:    ext4.TypeChar,
	layer.Block:   ext4.TypeBlock,
	layer.FIFO:    ext4.TypeFIFO,
}

func newFile(e *layer.Entry) *file {
	f := &file{Node: &ext4.Node{Mode: types[e.Kind]}, links: 1}
	setMeta(f, e)
	if e.Kind == layer.Symlink {
		f.Mode |= 0o777 // as symlink(2) makes them
		f.Target = e.Link
	}
	f.Data, f.Major, f.Minor = e.Data, e.Major, e.Minor
	return f
}

func setMeta(f *file, e *layer.Entry) {
	f.Mode = f.Mode&ext4.TypeMask | e.Mode
	f.UID, f.GID = e.UID, e.GID
	f.ModTime = e.ModTime
	f.Xattrs = e.Xattrs
}

func split(path string) (dir, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}
