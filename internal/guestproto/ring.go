package guestproto

import (
	"context"
	"io"
	"sync"
)

// Ring is a bounded queue of bytes that remembers what was read from it, so
// that a new reader can go on at an earlier offset. The guest has one for each
// output stream of a command, the host one for its input. Offsets count from
// the first byte ever written.
//
// It holds at most size bytes: those not read yet and, as long as there is no
// need for the room, older ones, but always the last keep bytes that were read.
// What a reader was given counts as read when it asks for more. So a sender that
// reads it into a channel of a Stream needs keep = Window: what the peer has not
// taken when the session breaks is never older. Memory grows with use.
type Ring struct {
	size, keep int

	mu     sync.Mutex
	change sync.Cond // anything below changed
	buf    []byte    // offset o is at o % len(buf)
	start  int64     // oldest byte kept
	pos    int64     // where the current reader's last Read began
	end    int64     // bytes ever written
	eof    bool
	closed bool
	reader *RingReader
}

// NewRing makes a ring of at most size bytes; size must be above keep.
func NewRing(size, keep int) *Ring {
	if keep < 0 || size <= keep {
		panic("guestproto: ring smaller than what it keeps")
	}
	r := &Ring{size: size, keep: keep}
	r.change.L = &r.mu
	return r
}

// Write appends p and blocks while there is no room. It fails with
// io.ErrClosedPipe after CloseWrite or Close.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := 0
	for done < len(p) {
		for !r.closed && !r.eof && r.room() == 0 {
			r.change.Wait()
		}
		if r.closed || r.eof {
			return done, io.ErrClosedPipe
		}
		n := min(r.room(), len(p)-done)
		r.put(p[done : done+n])
		done += n
		r.change.Broadcast()
	}
	return done, nil
}

// floor is the oldest offset that must be kept.
func (r *Ring) floor() int64 { return max(r.start, r.pos-int64(r.keep)) }

func (r *Ring) room() int { return r.size - int(r.end-r.floor()) }

// put appends p, for which there is room.
func (r *Ring) put(p []byte) {
	if need := r.end + int64(len(p)) - r.start; need > int64(len(r.buf)) {
		r.grow(int(min(need, int64(r.size))))
		r.start = max(r.start, r.end+int64(len(p))-int64(len(r.buf)))
	}
	for len(p) > 0 {
		n := copy(r.buf[r.end%int64(len(r.buf)):], p)
		p = p[n:]
		r.end += int64(n)
	}
}

// minRing is the first size of a ring in bytes: most output is short.
const minRing = 4 << 10

// grow makes the buffer hold at least need bytes, at most size.
func (r *Ring) grow(need int) {
	if need <= len(r.buf) {
		return
	}
	n := max(minRing, len(r.buf))
	for n < need {
		n *= 2
	}
	old := r.buf
	r.buf = make([]byte, min(n, r.size))
	for off := r.start; off < r.end; {
		from := old[off%int64(len(old)):]
		from = from[:min(int64(len(from)), r.end-off)]
		off += int64(copy(r.buf[off%int64(len(r.buf)):], from))
	}
}

// CloseWrite ends the bytes: readers get io.EOF after the last one. Idempotent.
func (r *Ring) CloseWrite() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.eof = true
	r.change.Broadcast()
}

// Reader returns a new reader that begins at off, or at the oldest byte kept
// when off is older, or at the end when off is beyond; Offset tells which. An
// earlier reader fails with io.ErrClosedPipe from then on.
func (r *Ring) Reader(off int64) *RingReader {
	r.mu.Lock()
	defer r.mu.Unlock()
	off = min(max(off, r.start), r.end)
	r.reader = &RingReader{ring: r, off: off}
	r.pos = off
	r.change.Broadcast()
	return r.reader
}

// Skip makes a ring that nothing was written to begin at offset off.
func (r *Ring) Skip(off int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.end == 0 {
		r.start, r.pos, r.end = off, off, off
	}
}

// Range returns the offsets of the oldest byte kept and of the end.
func (r *Ring) Range() (start, end int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start, r.end
}

// Size is the memory that the ring takes, in bytes.
func (r *Ring) Size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.buf)
}

// Drop forgets every byte kept. Offsets go on.
func (r *Ring) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop()
}

func (r *Ring) drop() {
	r.buf, r.start, r.pos = nil, r.end, r.end
	if r.reader != nil {
		r.reader.off = r.end
	}
	r.change.Broadcast()
}

// Close ends the ring: it forgets every byte, and writers and readers fail with
// io.ErrClosedPipe. It is idempotent.
func (r *Ring) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.drop()
}

// RingReader reads a Ring. It is for one goroutine.
type RingReader struct {
	ring *Ring
	off  int64 // guarded by ring.mu
}

// Offset is the offset of the next byte that Read returns.
func (rr *RingReader) Offset() int64 {
	rr.ring.mu.Lock()
	defer rr.ring.mu.Unlock()
	return rr.off
}

// Read blocks until there is a byte, the end (io.EOF), or ctx is done. The
// bytes that the Read before returned are done with.
func (rr *RingReader) Read(ctx context.Context, p []byte) (int, error) {
	r := rr.ring
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == rr && r.pos != rr.off {
		r.pos = rr.off
		r.change.Broadcast()
	}
	if rr.mustWait() {
		defer context.AfterFunc(ctx, r.wake)()
	}
	for ctx.Err() == nil && rr.mustWait() {
		r.change.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case r.closed || r.reader != rr:
		return 0, io.ErrClosedPipe
	case rr.off == r.end:
		return 0, io.EOF
	}
	i := rr.off % int64(len(r.buf))
	n := copy(p[:min(int64(len(p)), r.end-rr.off)], r.buf[i:])
	rr.off += int64(n)
	return n, nil
}

func (rr *RingReader) mustWait() bool {
	r := rr.ring
	return !r.closed && r.reader == rr && !r.eof && rr.off == r.end
}

func (r *Ring) wake() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.change.Broadcast()
}
