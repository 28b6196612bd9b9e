package ext4

// streamBufSize bounds the memory of a stream; large writes are the faster.
const streamBufSize = 256 << 10

// stream writes a run of blocks in order through a buffer.
type stream struct {
	f   file
	at  uint64 // block that buf goes to
	buf []byte
}

func newStream(f file, at uint64) *stream {
	return &stream{f: f, at: at, buf: make([]byte, 0, streamBufSize)}
}

// next returns the block that the next write begins in.
func (s *stream) next() uint64 { return s.at + uint64(len(s.buf)/blockSize) }

// grow appends n zero bytes, which must divide the block size or be a multiple
// of it below the buffer's, and returns them to be filled in before the next call.
func (s *stream) grow(n int) ([]byte, error) {
	if len(s.buf)+n > cap(s.buf) {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	from := len(s.buf)
	s.buf = s.buf[:from+n]
	clear(s.buf[from:])
	return s.buf[from:], nil
}

// add appends one block and returns where it goes.
func (s *stream) add(block []byte) (uint64, error) {
	at := s.next()
	b, err := s.grow(blockSize)
	copy(b, block)
	return at, err
}

// flush writes what is buffered, up to the end of its last block.
func (s *stream) flush() error {
	n := (len(s.buf) + blockSize - 1) / blockSize
	if n == 0 {
		return nil
	}
	from := len(s.buf)
	s.buf = s.buf[:n*blockSize]
	clear(s.buf[from:])
	err := writeAt(s.f, s.buf, s.at)
	s.at += uint64(n)
	s.buf = s.buf[:0]
	return err
}
