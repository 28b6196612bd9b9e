package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	newerName = "log"
	olderName = "log.1"
)

// flushAfter is how long the beginning of a line waits for its end.
const flushAfter = 100 * time.Millisecond

// Journal is a machine's log while it is written. A nil Journal takes and
// drops everything: a log that cannot be written keeps no machine from running.
type Journal struct {
	dir  string
	half int64 // bytes of a file

	mu      sync.Mutex
	file    *os.File // the newer one; nil once closed
	gen     int64    // counts the files: that of the newer one
	size    int64    // of the newer one, whole entries only
	lost    int64    // bytes that could not be written since the last that could
	pending []byte   // the beginning of the console's current line
	pieces  bool     // pieces of that line have been recorded
	armed   bool     // the timer runs
	timer   *time.Timer
	changed chan struct{} // closed at the next change; nil: nobody waits
}

// Open opens the journal in dir, which must exist, and goes on where an earlier
// one stopped. limit is in bytes. The caller closes it.
func Open(dir string, limit int64) (*Journal, error) {
	j := &Journal{dir: dir, half: limit / 2}
	if err := j.open(0); err != nil {
		return nil, err
	}
	if err := j.mend(); err != nil {
		j.file.Close()
		return nil, err
	}
	return j, nil
}

func (j *Journal) open(flag int) error {
	f, err := os.OpenFile(filepath.Join(j.dir, newerName), os.O_RDWR|os.O_CREATE|flag, 0o600)
	if err != nil {
		return fmt.Errorf("open machine log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("open machine log: %w", err)
	}
	j.file, j.size = f, info.Size()
	return nil
}

// mend cuts off an entry that a crash of the host has torn.
func (j *Journal) mend() error {
	tail := make([]byte, min(j.size, 2*maxLine))
	if _, err := j.file.ReadAt(tail, j.size-int64(len(tail))); err != nil {
		return fmt.Errorf("read machine log: %w", err)
	}
	j.size -= int64(len(tail) - 1 - bytes.LastIndexByte(tail, '\n'))
	if err := j.file.Truncate(j.size); err != nil {
		return fmt.Errorf("mend machine log: %w", err)
	}
	return nil
}

// Write takes what the guest writes to its serial console. It always reports
// success and waits for nobody but the disk: what cannot be recorded must not
// stop the guest.
func (j *Journal) Write(p []byte) (int, error) {
	if j == nil {
		return len(p), nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	now := time.Now()
	var entries []Entry
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		room := maxLine - len(j.pending)
		if len(line) > room {
			line, after, whole = line[:room], rest[room:], false
		}
		j.pending = append(j.pending, line...)
		rest = after
		if !whole && len(j.pending) < maxLine {
			break
		}
		entries = append(entries, j.piece(now, whole))
	}
	j.append(entries)
	if len(j.pending) > 0 {
		j.arm()
	}
	return len(p), nil
}

// piece takes what is pending of the console's line.
func (j *Journal) piece(now time.Time, whole bool) Entry {
	e := Entry{Time: now, Source: Serial, Line: bytes.Clone(j.pending), Partial: !whole}
	if whole && !j.pieces {
		e.Source = sourceOf(e.Line)
	}
	j.pending, j.pieces = j.pending[:0], !whole
	return e
}

// arm sees to it that the beginning of a line does not wait for ever.
func (j *Journal) arm() {
	switch {
	case j.armed || j.file == nil:
		return
	case j.timer == nil:
		j.timer = time.AfterFunc(flushAfter, j.flush)
	default:
		j.timer.Reset(flushAfter)
	}
	j.armed = true
}

// flush records the beginning of a line whose end does not come: a prompt.
func (j *Journal) flush() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.armed = false
	j.flushLocked()
}

func (j *Journal) flushLocked() {
	if len(j.pending) > 0 {
		j.append([]Entry{j.piece(time.Now(), false)})
	}
}

// Note records an event that this side saw.
func (j *Journal) Note(format string, args ...any) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.append([]Entry{{Time: time.Now(), Source: Session, Line: []byte(printable(fmt.Sprintf(format, args...)))}})
}

// append writes entries, as many in one call as fit into a file. The mutex is
// held.
func (j *Journal) append(entries []Entry) {
	if len(entries) == 0 || j.file == nil {
		return
	}
	var batch []byte
	for _, e := range entries {
		start := len(batch)
		batch = e.appendTo(batch)
		if j.size+int64(len(batch)) > j.half {
			j.put(batch[:start])
			batch = bytes.Clone(batch[start:])
			j.rotate()
		}
	}
	j.put(batch)
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
}

// put writes whole entries, or none.
func (j *Journal) put(b []byte) {
	if j.lost > 0 && len(b) > 0 {
		note := Entry{Time: time.Now(), Source: Session, Line: fmt.Appendf(nil, "%d bytes of this log could not be written", j.lost)}
		b = append(note.appendTo(nil), b...)
	}
	n, err := j.file.WriteAt(b, j.size)
	if err != nil {
		// Whatever is there of it is written over by the next entry.
		_ = j.file.Truncate(j.size)
		j.lost += int64(len(b))
		return
	}
	j.size += int64(n)
	j.lost = 0
}

// rotate begins a new file. Where it cannot, the full one is emptied: the log
// never grows past its limit.
func (j *Journal) rotate() {
	full := j.file
	err := os.Rename(filepath.Join(j.dir, newerName), filepath.Join(j.dir, olderName))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		if j.open(os.O_TRUNC) == nil {
			j.gen++
			full.Close()
			return
		}
	}
	j.file = full
	j.lost += j.size
	_ = full.Truncate(0) // put writes from the start in any case
	j.size = 0
}

// Close ends the writing, and every Reader that follows once it has read the
// rest. The files stay. It is idempotent.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	if j.timer != nil {
		j.timer.Stop()
	}
	j.flushLocked()
	err := j.file.Close()
	j.file = nil
	if j.changed != nil {
		close(j.changed)
		j.changed = nil
	}
	return err
}

// Remove removes the journal in dir, which nobody writes.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{newerName, olderName} {
		if err := os.Remove(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var _ io.WriteCloser = (*Journal)(nil)
