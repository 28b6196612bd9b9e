package mount

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// maxEdit bounds a file that Edit reads, in bytes: /etc/hosts and its like.
const maxEdit = 1 << 20

// pseudo are the file systems whose "regular" files are switches of the kernel
// (statfs(2) f_type, linux/magic.h).
var pseudo = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC}

// Edit replaces the content of the small file p by what change makes of it.
// A symbolic link to a regular file inside the root is followed; whatever else
// stands at p (a dangling link, a device) is replaced by a new file of mode
// 0644. Folders are made where they are missing.
func Edit(r *Root, p string, change func(old []byte) []byte) error {
	f, err := r.regular(p)
	if err != nil {
		return fmt.Errorf("edit %s: %w", p, err)
	}
	defer f.Close()
	old, err := io.ReadAll(io.LimitReader(f, maxEdit))
	if err != nil {
		return fmt.Errorf("edit %s: %w", p, err)
	}
	content := change(old)
	if slices.Equal(content, old) {
		return nil
	}
	if _, err := f.WriteAt(content, 0); err != nil {
		return fmt.Errorf("edit %s: %w", p, err)
	}
	if err := f.Truncate(int64(len(content))); err != nil {
		return fmt.Errorf("edit %s: %w", p, err)
	}
	return nil
}

func (r *Root) regular(p string) (*os.File, error) {
	// O_NONBLOCK: opening a FIFO must not wait for its other end.
	fd, err := r.Open(p, unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == nil {
		if editable(fd) {
			return os.NewFile(uintptr(fd), p), nil
		}
		unix.Close(fd)
	} else if errors.Is(err, unix.EROFS) {
		return nil, err
	}
	dir, base, err := r.Parent(p)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	if err := unix.Unlinkat(dir, base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, err
	}
	fd, err = unix.Openat(dir, base, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), p), nil
}

func editable(fd int) bool {
	var st unix.Stat_t
	var fs unix.Statfs_t
	if unix.Fstat(fd, &st) != nil || unix.Fstatfs(fd, &fs) != nil {
		return false
	}
	return st.Mode&unix.S_IFMT == unix.S_IFREG && !slices.Contains(pseudo, int64(fs.Type))
}
