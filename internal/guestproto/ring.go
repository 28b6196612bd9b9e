package guestproto

import "context"

// Ring is a bounded queue of bytes that remembers what was read from it, so
// that a new reader can go on at an earlier offset. The guest has one for each
// output stream of a command, the host one for its input. Offsets count from
// the first byte ever written.
//
// It holds at most size bytes: those not read yet and, as long as there is no
// need for the room, older ones, but always the last keep bytes that were read.
// A sender that reads it into a channel of a Stream needs keep >= Window: what
// the peer has not taken when the session breaks is never older. Memory grows
// with use.
type Ring struct{}

// NewRing makes a ring of at most size bytes; size must be above keep.
func NewRing(size, keep int) *Ring { panic("to come") }

// Write appends p and blocks while there is no room. It fails with
// io.ErrClosedPipe after CloseWrite or Close.
func (r *Ring) Write(p []byte) (int, error) { panic("to come") }

// CloseWrite ends the bytes: readers get io.EOF after the last one. Idempotent.
func (r *Ring) CloseWrite() { panic("to come") }

// Reader returns a new reader that begins at off, or at the oldest byte kept
// when off is older, or at the end when off is beyond; Offset tells which. An
// earlier reader fails with io.ErrClosedPipe from then on.
func (r *Ring) Reader(off int64) *RingReader { panic("to come") }

// Range returns the offsets of the oldest byte kept and of the end.
func (r *Ring) Range() (start, end int64) { panic("to come") }

// Size is the memory that the ring takes, in bytes.
func (r *Ring) Size() int { panic("to come") }

// Drop forgets every byte kept. Offsets go on.
func (r *Ring) Drop() { panic("to come") }

// Close ends the ring: it forgets every byte, and writers and readers fail with
// io.ErrClosedPipe. It is idempotent and returns nil.
func (r *Ring) Close() error { panic("to come") }

// RingReader reads a Ring. It is for one goroutine.
type RingReader struct{}

// Offset is the offset of the next byte that Read returns.
func (rr *RingReader) Offset() int64 { panic("to come") }

// Read blocks until there is a byte, the end (io.EOF), or ctx is done.
func (rr *RingReader) Read(ctx context.Context, p []byte) (int, error) { panic("to come") }
