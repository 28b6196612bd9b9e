// Package file does the host's file requests in the guest's own root: read and
// atomic write as streams, stat, list, and changes of names.
//
// Paths are absolute and resolved like any program's in the guest: links are
// followed, except the last one by Remove and Rename. Nothing here is bounded by a
// file's size: memory stays at one buffer for each transfer. Errors carry the
// errno; the caller maps them. Functions are safe for concurrent use.
package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Open opens a regular file for reading, also one of /proc, whose size says
// nothing. A directory is EISDIR, any other type EINVAL; a FIFO does not block.
// The caller closes the file.
func Open(name string) (*os.File, fs.FileInfo, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case st.IsDir():
		err = &fs.PathError{Op: "read", Path: name, Err: unix.EISDIR}
	case !st.Mode().IsRegular():
		err = &fs.PathError{Op: "read", Path: name, Err: unix.EINVAL}
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, st, nil
}

// Stat follows links.
func Stat(name string) (fs.FileInfo, error) { return os.Stat(name) }

// listBatch is how many names are held at a time.
const listBatch = 256

// List calls f with each entry of a directory, in any order, links not
// followed, until f fails or ctx is done. An entry that goes meanwhile is left
// out.
func List(ctx context.Context, name string, f func(fs.FileInfo) error) error {
	dir, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(listBatch)
		for _, e := range entries {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := f(info); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

// Mkdir makes a directory with exactly mode. With parents, missing parents are
// made with 0755 and a directory that exists is fine.
func Mkdir(name string, mode fs.FileMode, parents bool) error {
	if parents {
		if err := os.MkdirAll(parentOf(name), 0o755); err != nil {
			return err
		}
	}
	err := os.Mkdir(name, mode.Perm())
	if parents && errors.Is(err, fs.ErrExist) {
		if st, serr := os.Stat(name); serr == nil && st.IsDir() {
			return nil
		}
	}
	if err != nil {
		return err
	}
	return os.Chmod(name, mode) // the umask took bits away
}

func parentOf(name string) string {
	dir, _ := path.Split(strings.TrimRight(name, "/"))
	return dir
}

// Rename gives a file another name, and replaces a file that has it.
func Rename(from, to string) error {
	if err := unix.Rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// Remove removes a file, a link itself, or an empty directory; recursive also
// a directory with all that is in it. "/" is refused.
func Remove(name string, recursive bool) error {
	dir, base, err := split(name)
	if err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	parent, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(parent)
	if err := removeAt(parent, base, recursive); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

// split cuts a path into its folder and last element, and leaves the folder as
// it is: ".." after a link means the link's target, so nothing may be cleaned.
// A path without a last element ("/", "a/..") is EBUSY, as for rmdir(2).
func split(name string) (dir, base string, err error) {
	dir, base = path.Split(strings.TrimRight(name, "/"))
	if base == "" || base == "." || base == ".." {
		return "", "", unix.EBUSY
	}
	return dir, base, nil
}

func removeAt(parent int, base string, recursive bool) error {
	err := unix.Unlinkat(parent, base, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	err = unix.Unlinkat(parent, base, unix.AT_REMOVEDIR)
	if !recursive || !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return removeTree(parent, base)
}

// removeTree empties and removes a directory. os.Root walks with openat(2) and
// follows no link out of the directory.
func removeTree(parent int, base string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", parent))
	if err != nil {
		return err
	}
	defer root.Close()
	err = root.RemoveAll(base)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
