package ext4

import (
	"bytes"
	"fmt"
	"io"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	storeBufSize   = 256 << 10
	storeBufBlocks = storeBufSize / blockSize

	// The first zero blocks of a file become holes however few they are. Once
	// its extents no longer fit into the inode, a hole must save this many
	// blocks, so that content made to alternate costs little memory.
	minLateHole = 16
)

// Data is the content of one regular file, stored in the image. It belongs to
// the Writer that made it and to at most one Node; hard links share the Node.
type Data struct {
	w       *Writer
	size    int64
	extents []extent
}

// Size returns the content's length in bytes, holes included.
func (d *Data) Size() int64 { return d.size }

// Segment is a part of a sparse file that has data.
type Segment struct {
	Offset int64 // in the file, bytes
	Length int64 // bytes
}

// Store streams exactly size bytes of r into the image and returns where they
// are. Blocks of zeros become holes. An r that ends early is
// io.ErrUnexpectedEOF; an image that grows beyond Options.MaxSize, or a full
// disk, is errdefs.Exhausted; after an error nothing is kept. Store is safe for
// concurrent use; its memory is one buffer of 256 KiB per call.
func (w *Writer) Store(r io.Reader, size int64) (*Data, error) {
	return w.StoreSparse(r, size, []Segment{{0, size}})
}

// StoreSparse is Store for a file of size bytes of which only segments have
// data: r gives their bytes one after the other. Segments ascend, do not
// overlap and lie within the file; empty ones are allowed.
func (w *Writer) StoreSparse(r io.Reader, size int64, segments []Segment) (*Data, error) {
	if err := checkSegments(size, segments); err != nil {
		return nil, err
	}
	buf := w.bufs.Get().(*[storeBufSize]byte)
	defer w.bufs.Put(buf)
	s := storing{w: w, d: &Data{w: w, size: size}, r: r, segments: segments, buf: buf[:]}
	err := s.run()
	w.mu.Lock()
	w.alloc.give(s.room)
	w.mu.Unlock()
	if err != nil {
		w.Discard(s.d)
		return nil, err
	}
	return s.d, nil
}

// Discard gives the blocks of a file that no Node will have back: they are used
// for later files, or become a hole in the end. d must not be used afterwards;
// a nil d is allowed, and a second Discard does nothing.
func (w *Writer) Discard(d *Data) {
	if d == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range d.extents {
		w.alloc.give(span{uint64(e.start), uint64(e.count)})
	}
	d.w, d.extents = nil, nil
}

func checkSegments(size int64, segments []Segment) error {
	if size < 0 {
		return errdefs.New(errdefs.Invalid, "FILE_SIZE_INVALID", "file size %d is negative", size)
	}
	if size > MaxFileSize {
		return errdefs.New(errdefs.Exhausted, "FILE_TOO_LARGE", "file of %d bytes is larger than %d", size, int64(MaxFileSize))
	}
	end := int64(0)
	for _, s := range segments {
		if s.Offset < end || s.Length < 0 || s.Offset > size || s.Length > size-s.Offset {
			return errdefs.New(errdefs.Invalid, "FILE_SEGMENTS_INVALID", "segment of %d bytes at %d of a file of %d bytes overlaps or lies outside", s.Length, s.Offset, size)
		}
		end = s.Offset + s.Length
	}
	return nil
}

// storing is one call of StoreSparse. It goes through the file in windows of at
// most one buffer; each begins at a block that has data.
type storing struct {
	w        *Writer
	d        *Data
	r        io.Reader
	segments []Segment // not wholly read yet
	read     int64     // bytes of segments[0] that are read
	unread   int64     // bytes of all segments that are not read

	buf   []byte
	first uint64 // logical block that buf starts at
	room  span   // blocks set aside and not used yet
}

func (s *storing) run() error {
	for _, seg := range s.segments {
		s.unread += seg.Length
	}
	for s.skipEmpty() {
		n, err := s.fill()
		if err != nil {
			return fmt.Errorf("read file content: %w", err)
		}
		if err := s.flush(n); err != nil {
			return err
		}
	}
	return nil
}

// skipEmpty drops segments that are read, and reports whether one is left.
func (s *storing) skipEmpty() bool {
	for len(s.segments) > 0 && s.read == s.segments[0].Length {
		s.segments, s.read = s.segments[1:], 0
	}
	return len(s.segments) > 0
}

// fill reads the next window, with zeros where no segment is, and returns its
// length in blocks.
func (s *storing) fill() (int, error) {
	s.first = uint64(s.segments[0].Offset+s.read) / blockSize
	base := int64(s.first) * blockSize
	end := int64(0) // bytes of the window that are settled
	for s.skipEmpty() {
		seg := s.segments[0]
		from := seg.Offset + s.read - base
		if from >= storeBufSize {
			break
		}
		clear(s.buf[end:from])
		end = min(from+seg.Length-s.read, storeBufSize)
		if _, err := io.ReadFull(s.r, s.buf[from:end]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		s.read += end - from
		s.unread -= end - from
		if end == storeBufSize {
			break
		}
	}
	n := int((end + blockSize - 1) / blockSize)
	clear(s.buf[end : n*blockSize])
	return n, nil
}

// flush writes the first n blocks of buf but for the holes among them.
func (s *storing) flush(n int) error {
	from := 0 // start of the run that is to be written
	for i := 0; i < n; {
		end := s.zeros(i, n)
		switch {
		case end == i:
			i++
		case end-i < s.minHole():
			i = end
		default:
			if err := s.write(from, i, n); err != nil {
				return err
			}
			i, from = end, end
		}
	}
	return s.write(from, n, n)
}

// zeros returns the end of the run of zero blocks that starts at block i of buf.
func (s *storing) zeros(i, n int) int {
	for i < n && bytes.Equal(s.buf[i*blockSize:(i+1)*blockSize], zeroBlock[:]) {
		i++
	}
	return i
}

var zeroBlock [blockSize]byte // never written to

// minHole is the number of zero blocks from which on they become a hole.
func (s *storing) minHole() int {
	if len(s.d.extents) < inlineExtents {
		return 1
	}
	return minLateHole
}

// write puts blocks i to j of the window's n into the image.
func (s *storing) write(i, j, n int) error {
	for i < j {
		if s.room.count == 0 {
			if err := s.reserve(uint64(n - i)); err != nil {
				return err
			}
		}
		count := min(j-i, int(s.room.count))
		if err := writeAt(s.w.f, s.buf[i*blockSize:(i+count)*blockSize], s.room.start); err != nil {
			return err
		}
		s.d.extents = appendExtent(s.d.extents, extent{
			logical: uint32(s.first) + uint32(i),
			start:   uint32(s.room.start),
			count:   uint32(count),
		})
		s.room = span{s.room.start + uint64(count), s.room.count - uint64(count)}
		i += count
	}
	return nil
}

// reserve sets room aside for what is left of the file: the given blocks of
// the window and those not read. Near the limit it takes what it can get.
func (s *storing) reserve(window uint64) error {
	want := min(window+uint64(s.unread+blockSize-1)/blockSize, maxExtentBlocks)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	for ; want > 0; want /= 2 {
		if room, ok := s.w.alloc.take(want); ok {
			s.room = room
			return nil
		}
	}
	return s.w.tooLarge()
}
