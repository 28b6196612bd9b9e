package imagetest

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Inventory describes every file under dir, by its path relative to it, in all
// that an image determines: type, mode, owner, modification time, number of
// names, device, target, extended attributes and content. Files that are one
// say so. Reading everything takes root.
func Inventory(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	list := make(map[string]string)
	first := make(map[uint64]string) // by inode number
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line, inode, err := describe(path)
		if err != nil {
			return err
		}
		if other, ok := first[inode]; ok {
			line += " same as " + other
		} else {
			first[inode] = name
		}
		list[name] = line
		return nil
	})
	if err != nil {
		tb.Fatalf("take inventory of %s: %v", dir, err)
	}
	return list
}

func describe(path string) (string, uint64, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", 0, err
	}
	st := info.Sys().(*syscall.Stat_t)
	line := fmt.Sprintf("%06o %d:%d %d links, %d.%09d", st.Mode, st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
	switch {
	case info.Mode().IsRegular():
		b, err := os.ReadFile(path)
		if err != nil {
			return "", 0, err
		}
		line += fmt.Sprintf(" %d bytes %x", len(b), sha256.Sum256(b))
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return "", 0, err
		}
		line += " -> " + target
	case info.Mode()&fs.ModeDevice != 0:
		line += fmt.Sprintf(" device %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	xattrs, err := xattrs(path)
	return line + xattrs, st.Ino, err
}

func xattrs(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("list attributes of %s: %w", path, err)
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	var line strings.Builder
	for _, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", fmt.Errorf("get attribute %s of %s: %w", name, path, err)
		}
		fmt.Fprintf(&line, " %s=%x", name, buf[:n])
	}
	return line.String(), nil
}
