package ext4

import (
	"bytes"
	"cmp"
	"math/bits"
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	xattrMagic       = 0xEA020000
	xattrEntryHeader = 16
	xattrBlockHeader = 32
	xattrBodyHeader  = 4
	xattrEnd         = 4 // zeros after the last entry

	xattrBlockSpace = blockSize - xattrBlockHeader - xattrEnd
	xattrBodySpace  = inodeXattrSpace - xattrBodyHeader - xattrEnd
	xattrMaxName    = 255 // bytes without the prefix
)

// Indexes of the two names that have no rest and whose values have a form of
// their own on disk.
const (
	xattrACLAccess  = 2
	xattrACLDefault = 3
)

// xattrPrefixes maps prefixes of names to the index that stands for them on
// disk. Those that do not end in a dot are whole names.
var xattrPrefixes = []struct {
	prefix string
	index  uint8
}{
	{"user.", 1},
	{"system.posix_acl_access", xattrACLAccess},
	{"system.posix_acl_default", xattrACLDefault},
	{"trusted.", 4},
	{"security.", 6},
}

// XattrSupported reports whether an extended attribute of this full name can be
// kept: the kernel knows user., trusted., security. and the two POSIX ACLs.
// Others, such as those of macOS, it can neither show nor set.
func XattrSupported(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

// splitXattr returns the index of a name's prefix and the rest of the name.
func splitXattr(name string) (index uint8, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if !ok {
			continue
		}
		whole := !strings.HasSuffix(p.prefix, ".")
		valid := whole == (rest == "") && len(rest) <= xattrMaxName && !strings.Contains(rest, "\x00")
		return p.index, rest, valid
	}
	return 0, "", false
}

// xattr is one extended attribute as it is stored.
type xattr struct {
	index uint8
	name  string
	value []byte
}

// size is what the entry and its value take; both are rounded up to 4 bytes.
func (x *xattr) size() int {
	return xattrEntryHeader + (len(x.name)+3)&^3 + (len(x.value)+3)&^3
}

// xattrSet is how the attributes of one inode are stored: in the inode, and
// when there is no room left there, in one block.
type xattrSet struct {
	body, block []xattr
}

// newXattrSet distributes attributes. The errors do not say which file.
func newXattrSet(attrs map[string][]byte) (xattrSet, error) {
	var set xattrSet
	if len(attrs) == 0 {
		return set, nil
	}
	list := make([]xattr, 0, len(attrs))
	for name, value := range attrs {
		index, rest, ok := splitXattr(name)
		if !ok {
			return set, errdefs.New(errdefs.Unsupported, "XATTR_UNSUPPORTED", "extended attribute %q has a name that ext4 cannot hold", name)
		}
		if index == xattrACLAccess || index == xattrACLDefault {
			if value, ok = diskACL(value); !ok {
				return set, errdefs.New(errdefs.Invalid, "XATTR_INVALID", "extended attribute %q is no valid ACL", name)
			}
		}
		list = append(list, xattr{index, rest, value})
	}
	// The kernel searches a block for names in this order.
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	room := xattrBodySpace
	for _, x := range list {
		if n := x.size(); n <= room {
			room -= n
			set.body = append(set.body, x)
		} else {
			set.block = append(set.block, x)
		}
	}
	if need := xattrsSize(set.block); need > xattrBlockSpace {
		return set, errdefs.New(errdefs.Exhausted, "XATTR_TOO_LARGE", "extended attributes need %d bytes where %d are left", need, xattrBlockSpace)
	}
	return set, nil
}

func xattrsSize(list []xattr) int {
	n := 0
	for i := range list {
		n += list[i].size()
	}
	return n
}

// encodeBody returns the attributes within an inode, or nil for none.
func (s *xattrSet) encodeBody() []byte {
	if len(s.body) == 0 {
		return nil
	}
	b := make([]byte, inodeXattrSpace)
	le.PutUint32(b, xattrMagic)
	// Here offsets of values count from the first entry.
	putXattrs(b[xattrBodyHeader:], 0, s.body)
	return b
}

// encodeBlock returns the block of attributes, which will lie at the given
// number. fsSeed is the file system's.
func (s *xattrSet) encodeBlock(at uint64, fsSeed uint32) []byte {
	b := make([]byte, blockSize)
	le.PutUint32(b[0x00:], xattrMagic)
	le.PutUint32(b[0x04:], 1) // inodes that refer to it
	le.PutUint32(b[0x08:], 1) // blocks
	le.PutUint32(b[0x0C:], putXattrs(b, xattrBlockHeader, s.block))
	le.PutUint32(b[0x10:], crc32c(crc32cUint64(fsSeed, at), b))
	return b
}

// putXattrs writes entries from first on and their values from the end of b
// down, and returns the hash of all entries.
func putXattrs(b []byte, first int, list []xattr) uint32 {
	at, end, all := first, len(b), uint32(0)
	for i := range list {
		x := &list[i]
		if len(x.value) > 0 {
			end -= (len(x.value) + 3) &^ 3
			le.PutUint16(b[at+2:], uint16(end))
			copy(b[end:], x.value)
		}
		b[at] = uint8(len(x.name))
		b[at+1] = x.index
		le.PutUint32(b[at+8:], uint32(len(x.value)))
		hash := xattrHash(x)
		le.PutUint32(b[at+12:], hash)
		copy(b[at+xattrEntryHeader:], x.name)
		at += xattrEntryHeader + (len(x.name)+3)&^3
		all = bits.RotateLeft32(all, 16) ^ hash
	}
	return all
}

// xattrHash is ext4_xattr_hash_entry of fs/ext4/xattr.c.
func xattrHash(x *xattr) uint32 {
	hash := uint32(0)
	for _, c := range []byte(x.name) {
		hash = bits.RotateLeft32(hash, 5) ^ uint32(c)
	}
	padded := append(bytes.Clone(x.value), 0, 0, 0)
	for ; len(padded) >= 4; padded = padded[4:] {
		hash = bits.RotateLeft32(hash, 16) ^ le.Uint32(padded)
	}
	return hash
}
