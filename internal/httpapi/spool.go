package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// spoolMemory is what a spool keeps in memory before it goes to a file: little,
// since thousands of commands may run at a time.
const spoolMemory = 64 << 10

// errSpoolFull says that a spool has reached its limit.
var errSpoolFull = errdefs.New(errdefs.Exhausted, "OUTPUT_TOO_LARGE", "the output is larger than the server's limit; stream it or write it to a file")

// errSpoolsFull says that all spools together have reached theirs.
var errSpoolsFull = errdefs.New(errdefs.Exhausted, "SPOOL_FULL", "the server holds too much output and files of other calls; stream it, or try again")

// spoolsAtLimit is how many spools may be as large as a single one may get at
// the same time.
const spoolsAtLimit = 16

// spools is where spools have their files.
type spools struct {
	dir  string
	left atomic.Int64 // bytes, in the files of all spools
}

func newSpools(dir string, largest int64) *spools {
	s := &spools{dir: dir}
	s.left.Store(spoolsAtLimit * largest)
	return s
}

// take sets room in files aside.
func (s *spools) take(n int64) error {
	if s.left.Add(-n) < 0 {
		s.left.Add(n)
		return errSpoolsFull
	}
	return nil
}

// spool keeps bytes of unknown length: a little in memory, more in a temporary
// file that has no name any more. It is written by one goroutine, then read.
type spool struct {
	all    *spools
	budget *atomic.Int64 // bytes left, may be shared with another spool
	mem    bytes.Buffer
	file   *os.File
	taken  int64 // of all.left
	size   int64
}

func (s *spools) open(budget *atomic.Int64) *spool { return &spool{all: s, budget: budget} }

// Write appends p, or fails with errSpoolFull.
func (s *spool) Write(p []byte) (int, error) {
	if s.budget.Add(-int64(len(p))) < 0 {
		return 0, errSpoolFull
	}
	if s.file == nil && s.mem.Len()+len(p) > spoolMemory {
		if err := s.toFile(); err != nil {
			return 0, err
		}
	}
	s.size += int64(len(p))
	if s.file != nil {
		if err := s.take(len(p)); err != nil {
			return 0, err
		}
		n, err := s.file.Write(p)
		if err != nil {
			return n, errdefs.Wrap(err, errdefs.Exhausted, "NO_SPACE", "no space left for the output")
		}
		return n, nil
	}
	return s.mem.Write(p)
}

func (s *spool) take(n int) error {
	if err := s.all.take(int64(n)); err != nil {
		return err
	}
	s.taken += int64(n)
	return nil
}

func (s *spool) toFile() error {
	if err := s.take(s.mem.Len()); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.all.dir, "spool-*")
	if err != nil {
		return fmt.Errorf("make a temporary file: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return fmt.Errorf("unlink the temporary file: %w", err)
	}
	if _, err := f.Write(s.mem.Bytes()); err != nil {
		f.Close()
		return errdefs.Wrap(err, errdefs.Exhausted, "NO_SPACE", "no space left for the output")
	}
	s.file, s.mem = f, bytes.Buffer{}
	return nil
}

// reader returns all that was written. It may be called again.
func (s *spool) reader() io.Reader {
	if s.file != nil {
		return io.NewSectionReader(s.file, 0, s.size)
	}
	return bytes.NewReader(s.mem.Bytes())
}

// close frees the file.
func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.all.left.Add(s.taken)
	s.taken = 0
}
