// Package mount makes the guest's tree: a table of directories, mounts and
// links as data, and the calls that put them in place.
//
// Every path is resolved inside a Root, with openat2(2), so that a hostile
// image whose /dev or /etc is a symbolic link cannot lead init outside of it,
// and mounts are attached to descriptors (fsopen(2), move_mount(2)), never to
// paths that are looked up twice. The package knows neither the agent nor what
// a machine's disks are for: package initd holds those tables.
package mount

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a directory inside which paths are resolved, like chroot(2) would.
// It is safe for concurrent use. The opener closes it.
type Root struct {
	fd   int
	name string
}

// OpenRoot opens the directory dir, following symbolic links.
func OpenRoot(dir string) (*Root, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open root %s: %w", dir, err)
	}
	return &Root{fd: fd, name: dir}, nil
}

// Close releases the root.
func (r *Root) Close() { unix.Close(r.fd) }

// FD returns the root's descriptor (O_PATH), which stays owned by r.
func (r *Root) FD() int { return r.fd }

// resolve keeps every lookup inside the root; magic links (/proc/PID/fd) would
// lead out of it.
const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// Open opens p inside the root; symbolic links are followed inside the root
// unless flags hold O_NOFOLLOW. The caller closes the descriptor.
func (r *Root) Open(p string, flags int, mode uint32) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(mode)
	}
	for {
		fd, err := unix.Openat2(r.fd, p, how)
		// EAGAIN: a rename or mount elsewhere raced with a ".." (openat2(2)).
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		return fd, err
	}
}

// Parent opens the folder of p (O_PATH), creating missing folders with mode
// 0755, and returns it with p's last element. The caller closes it.
func (r *Root) Parent(p string) (fd int, base string, err error) {
	dir, base := path.Split(path.Clean("/" + p))
	if base == "" {
		return -1, "", unix.EINVAL
	}
	fd, err = r.MkdirAll(dir, 0o755)
	return fd, base, err
}

// MkdirAll opens the directory p (O_PATH) and makes it and its parents where
// they are missing. Symbolic links are followed inside the root. The caller
// closes the descriptor.
func (r *Root) MkdirAll(p string, mode uint32) (int, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY
	fd, err := r.Open(path.Clean("/"+p), flags, 0)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	done := "/"
	for elem := range strings.SplitSeq(strings.Trim(path.Clean("/"+p), "/"), "/") {
		parent, err := r.Open(done, flags, 0)
		if err != nil {
			return -1, err
		}
		err = unix.Mkdirat(parent, elem, mode)
		unix.Close(parent)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		done = path.Join(done, elem)
	}
	return r.Open(done, flags, 0)
}

// mountpoint opens the directory p (O_PATH) to mount on. A symbolic link, or
// anything else that is no directory, is replaced: what init mounts must be
// where init says.
func (r *Root) mountpoint(p string, mode uint32) (int, error) {
	parent, base, err := r.Parent(p)
	if err != nil {
		return -1, err
	}
	defer unix.Close(parent)
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(parent, base, flags, 0)
	switch {
	case err == nil:
		return fd, nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		if err := unix.Unlinkat(parent, base, 0); err != nil {
			return -1, err
		}
	case !errors.Is(err, unix.ENOENT):
		return -1, err
	}
	if err := unix.Mkdirat(parent, base, mode); err != nil {
		return -1, err
	}
	return unix.Openat(parent, base, flags, 0)
}
