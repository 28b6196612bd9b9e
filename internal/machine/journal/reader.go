package journal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Options say what of a log is wanted.
type Options struct {
	Sources []Source // nil means all
	Tail    int      // at most so many lines of what is there already; negative means all
	Follow  bool     // go on until the journal is closed
}

// part is one file of a log as a Reader sees it.
type part struct {
	f    *os.File
	gen  int64
	size int64 // what may be read of it: whole entries
}

// Reader reads the entries of a log, the oldest first. It is used by one
// goroutine, which closes it.
type Reader struct {
	opts    Options
	journal *Journal // nil: no more comes
	parts   []part   // open files, oldest first

	at   int // index of the part that is read
	pos  int64
	buf  []byte // unread bytes of it, up to pos
	gap  bool   // entries were lost before the next one
	skip bool   // the rest of a line that is no entry is dropped
}

// Read returns a Reader of what is in the journal and, if that is asked for, of
// what comes.
func (j *Journal) Read(opts Options) (*Reader, error) {
	r, err := j.reader(opts)
	return r.cutAfter(err)
}

func (j *Journal) reader(opts Options) (*Reader, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, err := openParts(j.dir, opts)
	if err != nil {
		return nil, err
	}
	for i := range r.parts { // the newer one is the last
		r.parts[i].gen = j.gen - int64(len(r.parts)-1-i)
	}
	if n := len(r.parts); n > 0 && j.file != nil {
		r.parts[n-1].size = j.size
	}
	if opts.Follow && j.file != nil && len(r.parts) > 0 {
		r.journal = j
	}
	return r, nil
}

// OpenReader returns a Reader of a log that nobody writes. One that is not
// there is empty.
func OpenReader(dir string, opts Options) (*Reader, error) {
	for range 3 {
		r, err := openParts(dir, opts)
		if err != nil || len(r.parts) < 2 {
			return r.cutAfter(err)
		}
		older, err1 := r.parts[0].f.Stat()
		newer, err2 := r.parts[1].f.Stat()
		if err := errors.Join(err1, err2); err != nil || !os.SameFile(older, newer) {
			return r.cutAfter(err)
		}
		r.Close() // somebody writes after all, and has begun a new file between the two opens
	}
	return nil, errors.New("read machine log: its files change too fast")
}

// openParts opens the newer file first: should it become the older one
// meanwhile, both are the same, and none is missed.
func openParts(dir string, opts Options) (*Reader, error) {
	r := &Reader{opts: opts}
	for _, name := range []string{newerName, olderName} {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var info os.FileInfo
			if info, err = f.Stat(); err == nil {
				r.parts = slices.Insert(r.parts, 0, part{f: f, size: info.Size()})
				continue
			}
			f.Close()
		}
		r.Close()
		return nil, err
	}
	return r, nil
}

func (r *Reader) cutAfter(err error) (*Reader, error) {
	if err != nil {
		if r != nil {
			r.Close()
		}
		return nil, err
	}
	return r.cut()
}

// cut goes forward to where the wanted last lines begin.
func (r *Reader) cut() (*Reader, error) {
	if r.opts.Tail < 0 {
		return r, nil
	}
	type mark struct {
		at  int
		pos int64
	}
	starts := []mark{{}} // of the last lines that are wanted, and of what follows them
	open := false        // the last line has no end yet
	for {
		e, err := r.entry()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			r.Close()
			return nil, err
		}
		if !r.wants(e) {
			continue
		}
		if open = e.Partial; open {
			continue
		}
		starts = append(starts, mark{r.at, r.pos - int64(len(r.buf))})
		if len(starts) > r.opts.Tail+1 {
			starts = starts[1:]
		}
	}
	if open && len(starts) > max(r.opts.Tail, 1) {
		starts = starts[1:]
	}
	if r.opts.Tail == 0 {
		starts = []mark{{r.at, r.pos - int64(len(r.buf))}}
	}
	r.at, r.pos, r.buf = starts[0].at, starts[0].pos, nil
	return r, nil
}

func (r *Reader) wants(e Entry) bool {
	return r.opts.Sources == nil || e.Lost || slices.Contains(r.opts.Sources, e.Source)
}

// Next returns the next entry. It waits for one as long as the Reader follows,
// bounded by ctx; after the last one it returns io.EOF.
func (r *Reader) Next(ctx context.Context) (Entry, error) {
	for {
		e, err := r.Poll()
		if !errors.Is(err, ErrWait) {
			return e, err
		}
		select {
		case <-r.wait():
		case <-ctx.Done():
			return Entry{}, context.Cause(ctx)
		}
	}
}

// ErrWait is what Poll returns when the next entry has not come yet.
var ErrWait = errors.New("no entry yet")

// Poll is Next that does not wait: so that a caller flushes what it has first.
func (r *Reader) Poll() (Entry, error) {
	for {
		e, err := r.entry()
		switch {
		case err == nil && r.gap:
			// The entry is read again, after the gap.
			r.gap, r.buf = false, nil
			r.pos = 0
			return Entry{Time: e.Time, Source: Session, Lost: true}, nil
		case err == nil && r.wants(e):
			return e, nil
		case err == nil:
			continue
		case !errors.Is(err, io.EOF) || r.journal == nil:
			return Entry{}, err
		}
		more, err := r.grow()
		if err != nil {
			return Entry{}, err
		}
		if !more {
			return Entry{}, ErrWait
		}
	}
}

// entry returns the next entry of the parts as they are known.
func (r *Reader) entry() (Entry, error) {
	for {
		line, after, ok := bytes.Cut(r.buf, []byte{'\n'})
		if ok {
			r.buf = after
			e, good := parse(line)
			if good && !r.skip {
				return e, nil
			}
			r.skip = false
			continue
		}
		if err := r.fill(); err != nil {
			return Entry{}, err
		}
	}
}

// chunk is how much is read of a file at a time: several entries of any size.
const chunk = 8 * maxLine

// fill reads on in the part, or goes on to the next one.
func (r *Reader) fill() error {
	for r.at < len(r.parts) {
		p := r.parts[r.at]
		if n := min(p.size-r.pos, chunk); n > 0 {
			if len(r.buf) >= chunk { // no entry is as long
				r.buf, r.skip = nil, true
			}
			next := make([]byte, int64(len(r.buf))+n)
			copy(next, r.buf)
			if _, err := p.f.ReadAt(next[len(r.buf):], r.pos); err != nil {
				return err
			}
			r.buf, r.pos = next, r.pos+n
			return nil
		}
		if r.at == len(r.parts)-1 {
			return io.EOF
		}
		r.at, r.pos, r.buf, r.skip = r.at+1, 0, nil, false
	}
	return io.EOF
}

// grow finds what the journal has written since, and reports whether there is
// anything. It ends the following when the journal has been closed.
func (r *Reader) grow() (bool, error) {
	j := r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	last := &r.parts[len(r.parts)-1]
	if last.gen == j.gen {
		grown := j.size > last.size
		if j.size < last.size { // it could not begin a new file, and has emptied this one
			r.pos, r.gap, grown = 0, j.size > 0, j.size > 0
		}
		last.size = j.size
		if j.file == nil && !grown {
			r.journal = nil
			return true, nil
		}
		return grown, nil
	}
	info, err := last.f.Stat() // it was the newer one: now it is complete
	if err != nil {
		return false, err
	}
	if info.Size() > last.size {
		last.size = info.Size()
		return true, nil
	}
	return true, r.advance(last.gen + 1)
}

// advance goes on to the file of gen, or to the oldest that is still there. The
// journal's mutex is held.
func (r *Reader) advance(gen int64) error {
	name := newerName
	if gen < r.journal.gen {
		name = olderName
		r.gap = gen < r.journal.gen-1
		gen = r.journal.gen - 1
	}
	f, err := os.Open(filepath.Join(r.journal.dir, name))
	if errors.Is(err, fs.ErrNotExist) { // the machine has been deleted
		r.journal = nil
		return nil
	} else if err != nil {
		return err
	}
	next := part{f: f, gen: gen, size: r.journal.size}
	if gen < r.journal.gen {
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return err
		}
		next.size = info.Size()
	}
	r.Close()
	r.parts, r.at, r.pos, r.buf, r.skip = []part{next}, 0, 0, nil, false
	return nil
}

// wait returns a channel that is closed when grow is worth calling.
func (r *Reader) wait() <-chan struct{} {
	j := r.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	last := r.parts[len(r.parts)-1]
	if j.file == nil || last.gen != j.gen || last.size != j.size {
		ready := make(chan struct{})
		close(ready)
		return ready
	}
	if j.changed == nil {
		j.changed = make(chan struct{})
	}
	return j.changed
}

// Close closes the files that are open. It is idempotent.
func (r *Reader) Close() {
	for _, p := range r.parts {
		p.f.Close()
	}
	r.parts = nil
}
