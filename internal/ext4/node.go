package ext4

import "time"

// File types and permission bits of Node.Mode, as in st_mode of stat(2).
const (
	TypeMask    = 0o170000
	TypeSocket  = 0o140000
	TypeSymlink = 0o120000
	TypeRegular = 0o100000
	TypeBlock   = 0o060000
	TypeDir     = 0o040000
	TypeChar    = 0o020000
	TypeFIFO    = 0o010000

	SetUID = 0o4000
	SetGID = 0o2000
	Sticky = 0o1000
)

// Limits of the format.
const (
	MaxNameLen   = 255                // bytes of one directory entry's name
	MaxTargetLen = 4095               // bytes of a symlink's target
	MaxLinks     = 65000              // names of one inode that is no directory
	MaxFileSize  = (1<<32 - 1) * 4096 // bytes
)

// Node is one inode: a file of any type. Which other fields count depends on
// the type in Mode.
//
// The same *Node under several names is a hard link; a directory can have one
// name only. A Node is given to one Writer's Finish, once, and belongs to the
// Writer from then on.
type Node struct {
	Mode uint32 // type, setuid, setgid, sticky and permission bits of st_mode
	UID  uint32
	GID  uint32

	// ModTime is kept to the nanosecond from 1901-12-13 to 2310-04-04 and
	// clamped beyond; the zero Time is clamped too. (The format could go on
	// until 2446, but e2fsck takes such times for an old kernel's mistake.)
	// Access, change and birth time are set to it as well.
	ModTime time.Time

	// Xattrs maps full names ("security.capability") to values. Only names for
	// which XattrSupported holds are accepted. Values of
	// system.posix_acl_access and _default are in the form that getxattr(2)
	// gives. All of one inode together must fit into about 4 KiB.
	Xattrs map[string][]byte

	// Children are the entries of a directory by name: 1 to MaxNameLen bytes,
	// none of them NUL or '/', and neither "." nor "..". They need be no UTF-8.
	Children map[string]*Node

	Data   *Data  // content of a regular file; nil means empty
	Target string // of a symlink: 1 to MaxTargetLen bytes, none of them NUL
	Major  uint32 // of a device, below 1<<12
	Minor  uint32 // of a device, below 1<<20

	// Set by Finish.
	ino    uint32 // number
	parent uint32 // number of the directory that has the first name
	links  uint32 // count of names; of a directory: 2 + subdirectories
}

// NewDir returns a directory without entries, owned by root, with the given
// permission bits.
func NewDir(perm uint32, modTime time.Time) *Node {
	return &Node{Mode: TypeDir | perm, ModTime: modTime, Children: make(map[string]*Node)}
}

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Mode&TypeMask == TypeDir }
