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

// spool keeps bytes of unknown length: a little in memory, more in a temporary
// file that has no name any more. It is written by one goroutine, then read.
type spool struct {
	dir    string
	budget *atomic.Int64 // bytes left, may be shared with another spool
	mem    bytes.Buffer
	file   *os.File
	size   int64
}

func newSpool(dir string, budget *atomic.Int64) *spool { return &spool{dir: dir, budget: budget} }

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
		n, err := s.file.Write(p)
		if err != nil {
			return n, errdefs.Wrap(err, errdefs.Exhausted, "NO_SPACE", "no space left for the output")
		}
		return n, nil
	}
	return s.mem.Write(p)
}

func (s *spool) toFile() error {
	f, err := os.CreateTemp(s.dir, "spool-*")
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
}
