package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// DefaultMode is what a new file gets when no mode is asked for.
const DefaultMode fs.FileMode = 0o644

// Write replaces the file name by what r gives until io.EOF and returns the
// bytes written. Whoever opens name sees the old content or the whole new one;
// any error, of r too, leaves the old file and nothing else. The last element
// may be a link: the file that it leads to is replaced. The owner of an
// existing file is kept; so is its mode when mode is 0.
//
// What cannot be replaced (devices, files of /proc and /sys) is written to
// directly.
func Write(name string, mode fs.FileMode, r io.Reader) (int64, error) {
	name, old, err := target(name)
	if err != nil {
		return 0, err
	}
	folder, base, err := split(name)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: name, Err: unix.EISDIR}
	}
	dir, err := unix.Open(folder, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: folder, Err: err}
	}
	defer unix.Close(dir)
	if old != nil && !replaceable(dir, old) {
		return writeDirect(name, r)
	}
	t, err := newTemp(dir, base)
	if err != nil {
		return 0, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	defer t.discard()
	n, err := io.Copy(t.f, r)
	if err != nil {
		return n, err
	}
	if err := t.dress(mode, old); err != nil {
		return n, &fs.PathError{Op: "write", Path: name, Err: err}
	}
	if err := t.commit(); err != nil {
		return n, &fs.PathError{Op: "replace", Path: name, Err: err}
	}
	return n, nil
}

// maxLinks is how many links in a row are followed (MAXSYMLINKS, linux/namei.h).
const maxLinks = 40

// target follows the last element of name while it is a link. old is nil when
// there is no such file yet.
func target(name string) (string, *unix.Stat_t, error) {
	for range maxLinks {
		var st unix.Stat_t
		err := unix.Lstat(name, &st)
		switch {
		case errors.Is(err, unix.ENOENT):
			return name, nil, nil
		case err != nil:
			return "", nil, &fs.PathError{Op: "open", Path: name, Err: err}
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			return "", nil, &fs.PathError{Op: "open", Path: name, Err: unix.EISDIR}
		case st.Mode&unix.S_IFMT != unix.S_IFLNK:
			return name, &st, nil
		}
		to, err := os.Readlink(name)
		if err != nil {
			return "", nil, err
		}
		if !strings.HasPrefix(to, "/") {
			to = parentOf(name) + to
		}
		name = to
	}
	return "", nil, &fs.PathError{Op: "open", Path: name, Err: unix.ELOOP}
}

// pseudo are file systems whose files are switches of the kernel (linux/magic.h).
var pseudo = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC}

func replaceable(dir int, old *unix.Stat_t) bool {
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil || slices.Contains(pseudo, int64(st.Type)) {
		return false
	}
	return old.Mode&unix.S_IFMT == unix.S_IFREG
}

func writeDirect(name string, r io.Reader) (int64, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_TRUNC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(f, r)
	return n, errors.Join(err, f.Close())
}

// temp is a file that has no name yet, or a random one.
type temp struct {
	dir  int
	base string // the name to be
	name string // the random name; "" while there is none
	f    *os.File
}

// newTemp makes a file in dir: without a name where the file system can do
// that, so that not even a power cut leaves it behind.
func newTemp(dir int, base string) (*temp, error) {
	t := &temp{dir: dir, base: base}
	fd, err := unix.Openat(dir, ".", unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EINVAL) {
		t.name = randomName()
		fd, err = unix.Openat(dir, t.name, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	}
	if err != nil {
		return nil, err
	}
	t.f = os.NewFile(uintptr(fd), base)
	return t, nil
}

// The name need not be secret: it is created exclusively.
func randomName() string { return fmt.Sprintf(".hyperfleet-%016x", rand.Uint64()) }

// dress gives the file its owner and mode.
func (t *temp) dress(mode fs.FileMode, old *unix.Stat_t) error {
	bits := unixMode(mode)
	if old != nil {
		// The owner first: chown clears setuid.
		if err := t.f.Chown(int(old.Uid), int(old.Gid)); err != nil {
			return err
		}
		if mode == 0 {
			bits = old.Mode & 0o7777
		}
	} else if mode == 0 {
		bits = unixMode(DefaultMode)
	}
	return unix.Fchmod(int(t.f.Fd()), bits)
}

func unixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, unix.S_ISUID}, {fs.ModeSetgid, unix.S_ISGID}, {fs.ModeSticky, unix.S_ISVTX}} {
		if m&b.mode != 0 {
			bits |= b.bit
		}
	}
	return bits
}

// commit makes the content durable, then gives it the name.
func (t *temp) commit() error {
	if err := t.f.Sync(); err != nil {
		return err
	}
	if t.name == "" {
		name := randomName()
		proc := fmt.Sprintf("/proc/self/fd/%d", t.f.Fd())
		if err := unix.Linkat(unix.AT_FDCWD, proc, t.dir, name, unix.AT_SYMLINK_FOLLOW); err != nil {
			return err
		}
		t.name = name
	}
	if err := unix.Renameat(t.dir, t.name, t.dir, t.base); err != nil {
		return err
	}
	t.name = ""
	return unix.Fsync(t.dir)
}

// discard closes the file and removes a random name that is still there.
func (t *temp) discard() {
	t.f.Close()
	if t.name != "" {
		_ = unix.Unlinkat(t.dir, t.name, 0) // nothing more can be done
	}
}
