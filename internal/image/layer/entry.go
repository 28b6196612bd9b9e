package layer

import (
	"archive/tar"
	"encoding/base64"
	"net/url"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/ext4"
)

// Entry is one header of the archive, checked, and where its content went.
type Entry struct {
	Path    string // clean, relative to the root: "usr/bin/env"; "" is the root itself
	Kind    Kind
	Mode    uint32 // permission bits with setuid, setgid and sticky
	UID     uint32
	GID     uint32
	ModTime time.Time
	Link    string // target of a symlink as it is; of a hard link clean like Path
	Major   uint32
	Minor   uint32
	Xattrs  map[string][]byte
	Data    *ext4.Data // content of a regular file; nil when empty
}

// xattrWeight is about what a map with one value takes, in bytes: Go's maps
// grow by 8 places of 40 bytes here.
const xattrWeight = 512

// weight is about what e takes in memory beyond its fixed part, in bytes.
func (e *Entry) weight() int64 {
	n := len(e.Path) + len(e.Link)
	if len(e.Xattrs) > 0 {
		n += xattrWeight
	}
	for name, value := range e.Xattrs {
		n += len(name) + len(value)
	}
	return int64(n)
}

// Kind says what an entry makes, or that it removes.
type Kind uint8

// The closed set of kinds.
const (
	Regular Kind = iota + 1
	Dir
	Symlink
	Hardlink
	Char
	Block
	FIFO
	Whiteout // Path, of a lower layer, is removed
	Opaque   // all that lower layers have in the directory Path is removed
)

// Names with a meaning in layers, from the OCI image specification 1.1,
// layer.md. Other names that begin with metaPrefix are left-overs of aufs.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
)

// maxPathLen is PATH_MAX less the NUL: a longer path cannot be used at once.
const maxPathLen = 4095

var kinds = map[byte]Kind{
	tar.TypeReg:       Regular,
	tar.TypeCont:      Regular,
	tar.TypeGNUSparse: Regular,
	tar.TypeDir:       Dir,
	tar.TypeSymlink:   Symlink,
	tar.TypeLink:      Hardlink,
	tar.TypeChar:      Char,
	tar.TypeBlock:     Block,
	tar.TypeFifo:      FIFO,
}

// newEntry checks h. It returns nil, nil for a header that says nothing of a
// file.
func newEntry(h *tar.Header, q *Quota) (*Entry, error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, nil
	}
	path, err := cleanPath(h.Name, q.MaxDepth)
	if err != nil {
		return nil, err
	}
	e := &Entry{Path: path, Kind: kinds[h.Typeflag]}
	if special, err := e.markWhiteout(); special || err != nil {
		if err != nil || e.Kind == 0 {
			return nil, err
		}
		return e, nil
	}
	if e.Kind == 0 {
		return nil, Corrupt(nil, "layer entry %.300q has the unknown type %q", path, h.Typeflag)
	}
	if path == "" && e.Kind != Dir {
		return nil, Corrupt(nil, "layer makes its root something else than a directory")
	}
	if err := e.setLink(h, q.MaxDepth); err != nil || e.Kind == Hardlink {
		return e, err
	}
	return e, e.setMeta(h, q.MaxXattrBytes)
}

// markWhiteout sees whether the name is one with a meaning. Kind is 0 for an
// entry to be left out.
func (e *Entry) markWhiteout() (bool, error) {
	dir, name := split(e.Path)
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, metaPrefix) {
			e.Kind = 0
			return true, nil
		}
	}
	switch {
	case name == opaqueName:
		e.Path, e.Kind = dir, Opaque
	case strings.HasPrefix(name, metaPrefix):
		e.Kind = 0
	case strings.HasPrefix(name, whiteoutPrefix):
		target := name[len(whiteoutPrefix):]
		if target == "" || target == "." || target == ".." {
			return true, Corrupt(nil, "layer has the whiteout %.300q, which removes no file", e.Path)
		}
		e.Path, e.Kind = join(dir, target), Whiteout
	default:
		return false, nil
	}
	return true, nil
}

func (e *Entry) setLink(h *tar.Header, maxDepth int) error {
	switch e.Kind {
	case Hardlink:
		link, err := cleanPath(h.Linkname, maxDepth)
		if err != nil {
			return err
		}
		e.Link = link
	case Symlink:
		if h.Linkname == "" || len(h.Linkname) > ext4.MaxTargetLen || strings.IndexByte(h.Linkname, 0) >= 0 {
			return Corrupt(nil, "layer entry %.300q is a symbolic link of %d bytes", e.Path, len(h.Linkname))
		}
		e.Link = strings.Clone(h.Linkname)
	}
	return nil
}

func (e *Entry) setMeta(h *tar.Header, maxXattr int) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return Corrupt(nil, "layer entry %.300q has the owner %d:%d", e.Path, h.Uid, h.Gid)
	}
	if e.Kind == Char || e.Kind == Block {
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return Corrupt(nil, "layer entry %.300q has the device number %d:%d", e.Path, h.Devmajor, h.Devminor)
		}
		e.Major, e.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	e.Mode = uint32(h.Mode) & 0o7777
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	e.ModTime = h.ModTime
	return e.setXattrs(h.PAXRecords, maxXattr)
}

// Prefixes of the PAX records that hold extended attributes: those of GNU tar,
// star and Go, and those of libarchive, which encodes names and values.
const (
	schilyXattr     = "SCHILY.xattr."
	libarchiveXattr = "LIBARCHIVE.xattr."
)

func (e *Entry) setXattrs(records map[string]string, maxBytes int) error {
	total := 0
	for key, value := range records {
		name, ok := strings.CutPrefix(key, schilyXattr)
		if !ok {
			if name, value, ok = decodeLibarchive(key, value); !ok {
				continue
			}
			if _, both := records[schilyXattr+name]; both {
				continue
			}
		}
		if !keepXattr(name) {
			continue
		}
		if total += len(name) + len(value); total > maxBytes {
			return errdefs.New(errdefs.Exhausted, "IMAGE_XATTRS_TOO_LARGE", "layer entry %.300q has more than %d bytes of extended attributes", e.Path, maxBytes)
		}
		if e.Xattrs == nil {
			e.Xattrs = make(map[string][]byte)
		}
		e.Xattrs[strings.Clone(name)] = []byte(value)
	}
	return nil
}

func decodeLibarchive(key, value string) (string, string, bool) {
	encoded, ok := strings.CutPrefix(key, libarchiveXattr)
	if !ok {
		return "", "", false
	}
	name, err := url.PathUnescape(encoded)
	if err != nil {
		return "", "", false
	}
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return name, string(raw), err == nil
}

// keepXattr leaves out what belongs to the host that made the layer: labels of
// its SELinux policy, and marks of its overlayfs, which would change what our
// own overlay shows.
func keepXattr(name string) bool {
	return name != "security.selinux" &&
		!strings.HasPrefix(name, "trusted.overlay.") &&
		!strings.HasPrefix(name, "user.overlay.") &&
		ext4.XattrSupported(name)
}

// cleanPath returns name without a leading "/" or "./", doubled and trailing
// slashes. It refuses names that climb, and those that no system can use.
func cleanPath(name string, maxDepth int) (string, error) {
	if len(name) > maxPathLen || strings.IndexByte(name, 0) >= 0 {
		return "", Corrupt(nil, "layer has a path of %d bytes that no system can use", len(name))
	}
	parts := make([]string, 0, 16)
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", Corrupt(nil, "layer has the path %.300q, which leads out of the image", name)
		case len(part) > ext4.MaxNameLen:
			return "", Corrupt(nil, "layer has a name of %d bytes; at most %d are possible", len(part), ext4.MaxNameLen)
		}
		parts = append(parts, part)
	}
	if len(parts) > maxDepth {
		return "", TooDeep(maxDepth)
	}
	// A string of its own: name may be a part of a PAX header of a megabyte,
	// which would stay in memory with it.
	return strings.Clone(strings.Join(parts, "/")), nil
}

// TooDeep is the error of a path with more than depth components.
func TooDeep(depth int) error {
	return errdefs.New(errdefs.Exhausted, "IMAGE_PATH_TOO_DEEP", "image has a path of more than %d components", depth)
}

func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
