// Package filetree copies a directory with all that is in it, exactly: what an
// image has at a place where init mounts something else.
//
// It works on descriptors and follows no link, so that a hostile image cannot
// lead it elsewhere. It needs /proc. Functions are safe for concurrent use on
// different directories.
package filetree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDepth bounds how deep a copy goes: two descriptors are open per level.
const maxDepth = 1024

// errDepth is returned for a tree deeper than maxDepth.
var errDepth = fmt.Errorf("more than %d folders deep", maxDepth)

type inode struct{ dev, ino uint64 }

// copier copies one tree. links maps a file with several names to the first of
// its copies, as a path from the target's root.
type copier struct {
	root  int
	links map[inode]string
}

// Copy makes the content, owner, mode, times and extended attributes of the
// directory to those of from: files, links hard and symbolic, devices, FIFOs and
// sockets. to must be empty and on a file system of its own or of from.
func Copy(to, from int) error {
	c := &copier{root: to, links: map[inode]string{}}
	return c.dir(to, from, ".", 0)
}

// dir copies what is in from, then what from itself has: a mode without write
// permission, and the times, come last.
func (c *copier) dir(to, from int, at string, depth int) error {
	if depth > maxDepth {
		return errDepth
	}
	names, err := readNames(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", at, err)
	}
	for _, name := range names {
		if err := c.entry(to, from, name, at+"/"+name, depth); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	if err := copyMeta(to, from, ".", ".", &st); err != nil {
		return fmt.Errorf("copy attributes of %s: %w", at, err)
	}
	return nil
}

func readNames(dir int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	return f.Readdirnames(-1)
}

func (c *copier) entry(to, from int, name, at string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("copy %s: %w", at, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return c.subdir(to, from, name, at, depth)
	}
	if st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino}
		if first, ok := c.links[key]; ok {
			if err := unix.Linkat(c.root, first, to, name, 0); err != nil {
				return fmt.Errorf("link %s: %w", at, err)
			}
			return nil
		}
		c.links[key] = at
	}
	if err := copyNode(to, from, name, &st); err != nil {
		return fmt.Errorf("copy %s: %w", at, err)
	}
	if err := copyMeta(to, from, name, name, &st); err != nil {
		return fmt.Errorf("copy attributes of %s: %w", at, err)
	}
	return nil
}

func (c *copier) subdir(to, from int, name, at string, depth int) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	src, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", at, err)
	}
	defer unix.Close(src)
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", at, err)
	}
	dst, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", at, err)
	}
	defer unix.Close(dst)
	return c.dir(dst, src, at, depth+1)
}

// copyNode makes what is no directory.
func copyNode(to, from int, name string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return copyFile(to, from, name)
	case unix.S_IFLNK:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(from, name, buf)
		if err != nil {
			return err
		}
		return unix.Symlinkat(string(buf[:n]), to, name)
	default:
		return unix.Mknodat(to, name, st.Mode, int(st.Rdev))
	}
}

func copyFile(to, from int, name string) error {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	src := os.NewFile(uintptr(in), name)
	defer src.Close()
	out, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), name)
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// copyMeta copies owner, attributes, mode and times, in the order in which one
// does not undo another.
func copyMeta(to, from int, name, fromName string, st *unix.Stat_t) error {
	if err := unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(to, name, st.Mode&0o7777, 0); err != nil {
			return err
		}
	}
	if err := copyXattrs(procPath(to, name), procPath(from, fromName)); err != nil {
		return err
	}
	return unix.UtimesNanoAt(to, name, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// procPath names an entry of an open directory: there are no l*xattr calls
// that take a directory's descriptor before Linux 6.13.
func procPath(dir int, name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", dir, name) }

func copyXattrs(to, from string) error {
	list, err := readXattr(func(b []byte) (int, error) { return unix.Llistxattr(from, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for name := range bytes.SplitSeq(list, []byte{0}) {
		key := string(name)
		if key == "" || strings.HasPrefix(key, "trusted.overlay.") {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Lgetxattr(from, key, b) })
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(to, key, value, 0); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// readXattr calls get with a large enough buffer: XATTR_LIST_MAX and
// XATTR_SIZE_MAX are 64 KiB (linux/limits.h).
func readXattr(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	n, err = get(buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}
