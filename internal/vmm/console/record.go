// Package console keeps the bounded record of a guest's serial console and
// finds in it the line that says what went wrong.
//
// What a guest writes is hostile in amount and content: the record never grows
// past its limit, and a line that leaves the package holds printable text only.
// The VMM drivers are its users. A Record is safe for concurrent use.
package console

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	newerName = "console.log"
	olderName = "console.log.1"
)

// Record is a ring of two files in a folder: the newer one is written until it
// is full and then replaces the older one. It keeps at least the last half of
// its limit.
type Record struct {
	dir  string
	half int64

	mu   sync.Mutex
	file *os.File // nil once closed
	size int64
}

// OpenRecord opens the record in dir for writing, and goes on where an earlier
// one stopped. limit is in bytes. The caller closes it.
func OpenRecord(dir string, limit int64) (*Record, error) {
	r := &Record{dir: dir, half: limit / 2}
	if err := r.open(os.O_APPEND); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Record) open(flag int) error {
	f, err := os.OpenFile(filepath.Join(r.dir, newerName), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|flag, 0o600)
	if err != nil {
		return fmt.Errorf("open console record: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open console record: %w", err)
	}
	r.file, r.size = f, info.Size()
	return nil
}

// Write appends p. It always reports success: a console that cannot be recorded
// (no disk space) must not stop its guest, and the loss shows in the record.
func (r *Record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := p; len(rest) > 0 && r.file != nil; {
		if r.size >= r.half && !r.rotate() {
			break
		}
		n := min(int64(len(rest)), r.half-r.size)
		written, err := r.file.Write(rest[:n])
		r.size += int64(written)
		if err != nil {
			break
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (r *Record) rotate() bool {
	err := os.Rename(filepath.Join(r.dir, newerName), filepath.Join(r.dir, olderName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	full := r.file
	if err := r.open(os.O_TRUNC); err != nil {
		return false // goes on being full; the next write tries again
	}
	full.Close()
	return true
}

// Snapshot returns a copy of the record, oldest byte first, as a file of its
// own that no later write changes. It works after Close too. The caller closes
// the file.
func (r *Record) Snapshot() (*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fd, err := unix.MemfdCreate("console", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("copy console record: %w", err)
	}
	out := os.NewFile(uintptr(fd), "console")
	for _, name := range []string{olderName, newerName} {
		if err := r.appendTo(out, name); err != nil {
			out.Close()
			return nil, fmt.Errorf("copy console record: %w", err)
		}
	}
	if _, err := out.Seek(0, io.SeekStart); err != nil {
		out.Close()
		return nil, fmt.Errorf("copy console record: %w", err)
	}
	return out, nil
}

func (r *Record) appendTo(w io.Writer, name string) error {
	f, err := os.OpenFile(filepath.Join(r.dir, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, io.LimitReader(f, r.half))
	return err
}

// LastLine returns the last useful line of the record, see the function
// LastLine, and "" when there is none.
func (r *Record) LastLine() string {
	f, err := r.Snapshot()
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	tail := make([]byte, min(info.Size(), 16<<10))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return ""
	}
	return LastLine(tail)
}

// Close ends the writing; the files stay. It is idempotent.
func (r *Record) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	r.file = nil
	return err
}

// Remove removes the record in dir.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{olderName, newerName} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
