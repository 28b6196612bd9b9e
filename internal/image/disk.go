package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// disk is what a Store does to files that must survive a crash. Each call
// names its purpose, so that a test can fail exactly one.
type disk interface {
	create(op, dir, pattern string) (*os.File, error)
	sync(op string, f *os.File) error
	rename(op, from, to string) error // durable on return
	remove(op, path string) error     // a path that is not there is removed
}

type osDisk struct{}

func (osDisk) create(op, dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return f, nil
}

func (osDisk) sync(op string, f *os.File) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (osDisk) rename(op, from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (osDisk) remove(op, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

// writeFile makes path hold b, or leaves what was there. dir is for the
// temporary file, on the same file system.
func writeFile(d disk, op, dir, path string, b []byte) (err error) {
	f, err := d.create(op, dir, "file-*")
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			err = errors.Join(err, d.remove(op, f.Name()))
		}
	}()
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if err := d.sync(op, f); err != nil {
		return err
	}
	return d.rename(op, f.Name(), path)
}

// allocated returns the disk space that a file takes, in bytes.
func allocated(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // the unit of st_blocks, stat(2)
	}
	return info.Size()
}

// lockDir makes sure that no other Store uses dir, in this process or another.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open image store's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, storeLocked(err)
	}
	return f, nil
}
