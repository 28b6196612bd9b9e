package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// tmpPrefix begins the names of what is not finished.
const tmpPrefix = ".tmp-"

// sweepAge is when what is not finished counts as left by a process that died.
const sweepAge = time.Hour

// writeFile makes a file whole or not at all: fill writes to a temporary file
// of the same folder, which is synced and renamed.
func writeFile(name string, perm os.FileMode, fill func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), tmpPrefix+"*")
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			f.Close() // may be closed already
			err = errors.Join(err, ignoreMissing(os.Remove(f.Name())))
		}
	}()
	if err := fill(f); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Chmod(perm); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("close %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// sweep removes what processes that died have left unfinished in dir.
func sweep(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, tmpPrefix+"*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > sweepAge {
			errs = append(errs, os.RemoveAll(name))
		}
	}
	return errors.Join(errs...)
}

// touch marks a file as used, so that it is not among the oldest.
func touch(name string) error {
	now := time.Now()
	return os.Chtimes(name, now, now)
}

// keepNewest removes what matches pattern in dir but for the n newest, of which
// keep is one however old it is.
func keepNewest(dir, pattern string, n int, keep string) error {
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return err
	}
	age := map[string]time.Time{}
	for _, name := range names {
		if info, err := os.Lstat(name); err == nil {
			age[name] = info.ModTime()
		}
	}
	age[filepath.Join(dir, keep)] = time.Now().Add(time.Hour)
	slices.SortFunc(names, func(a, b string) int { return age[b].Compare(age[a]) })
	var errs []error
	for _, name := range names[min(n, len(names)):] {
		errs = append(errs, os.RemoveAll(name))
	}
	return errors.Join(errs...)
}
