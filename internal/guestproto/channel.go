package guestproto

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// sendHalf is the sender's end of a data channel.
type sendHalf struct {
	credit int64 // bytes that the peer still takes
	closed bool
	notify chan struct{} // capacity 1: credit has come
}

// recvHalf is the receiver's end of a data channel.
type recvHalf struct {
	buf     fifo
	window  int   // how far allowed may run ahead of taken, in bytes
	allowed int64 // bytes that the peer may have sent so far
	got     int64 // bytes that it has sent
	taken   int64 // bytes that were read
	eof     bool
	notify  chan struct{} // capacity 1: data or EOF has come
}

func (h *recvHalf) put(p []byte) error {
	if h.eof {
		return violation("DATA after EOF")
	}
	if h.got+int64(len(p)) > h.allowed {
		return violation("DATA of %d bytes beyond the credit of %d", len(p), h.allowed-h.got)
	}
	h.got += int64(len(p))
	h.buf.put(p, h.window)
	signal(h.notify)
	return nil
}

// Reader reads a data channel: io.EOF after the peer's half-close or the good
// end of the stream, else the stream's error. Only reading gives the sender new
// credit. One goroutine at a time may read a channel.
func (s *Stream) Reader(ch Channel) io.Reader { return streamReader{s, ch} }

type streamReader struct {
	s  *Stream
	ch Channel
}

// Read implements io.Reader.
func (r streamReader) Read(p []byte) (int, error) {
	s, c := r.s, r.s.conn
	if r.ch < Stdin || r.ch > Stderr || c.outgoing(r.ch) {
		return 0, fmt.Errorf("read channel %d: not an incoming one", r.ch)
	}
	h := &s.recv[r.ch]
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if n := h.buf.take(p); n > 0 || len(p) == 0 {
			s.grant(r.ch, n)
			return n, nil
		}
		if err := s.readEnd(h); err != nil {
			return 0, err
		}
		c.mu.Unlock()
		select {
		case <-h.notify:
		case <-s.over:
		}
		c.mu.Lock()
	}
}

func (s *Stream) readEnd(h *recvHalf) error {
	if s.closed {
		return io.ErrClosedPipe
	}
	if h.eof || errors.Is(s.err, ErrEnded) {
		return io.EOF
	}
	return s.err
}

// grant gives the sender new credit once half of the window has been read. A
// stream that is read gets the large window, while the session's budget lasts.
func (s *Stream) grant(ch Channel, n int) {
	h := &s.recv[ch]
	h.taken += int64(n)
	ahead := h.allowed - h.taken
	if s.err != nil || h.eof || 2*ahead > int64(h.window) {
		return
	}
	if more := Window - h.window; more > 0 && s.conn.growth >= more {
		s.conn.growth -= more
		s.grown += more
		h.window = Window
	}
	var p [creditSize]byte
	credit := int64(h.window) - ahead
	binary.BigEndian.PutUint32(p[:], uint32(credit))
	h.allowed += credit
	s.conn.frameLocked(frameCredit, ch, s.id, p[:])
}

// Writer writes a data channel; it blocks while there is no credit. Its Close
// is the half-close: the peer reads EOF. One goroutine at a time may write a
// channel.
func (s *Stream) Writer(ch Channel) io.WriteCloser { return streamWriter{s, ch} }

type streamWriter struct {
	s  *Stream
	ch Channel
}

func (w streamWriter) check() error {
	if w.ch < Stdin || w.ch > Stderr || !w.s.conn.outgoing(w.ch) {
		return fmt.Errorf("write channel %d: not an outgoing one", w.ch)
	}
	return nil
}

// Write implements io.Writer.
func (w streamWriter) Write(p []byte) (int, error) {
	if err := w.check(); err != nil {
		return 0, err
	}
	c := w.s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	done := 0
	for done < len(p) {
		n, err := w.part(p[done:])
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// part sends one frame of p once there is credit and room. conn.mu is held.
func (w streamWriter) part(p []byte) (int, error) {
	s, c, h := w.s, w.s.conn, &w.s.send[w.ch]
	for s.err == nil && !h.closed && h.credit == 0 {
		c.mu.Unlock()
		select {
		case <-h.notify:
		case <-s.over:
		}
		c.mu.Lock()
	}
	if err := s.ready(); err != nil {
		return 0, err
	}
	if h.closed {
		return 0, io.ErrClosedPipe
	}
	n := min(len(p), MaxPayload, int(h.credit))
	h.credit -= int64(n)
	c.frameLocked(frameData, w.ch, s.id, p[:n])
	return n, nil
}

// Close implements io.Closer. It is idempotent.
func (w streamWriter) Close() error {
	if err := w.check(); err != nil {
		return err
	}
	c, h := w.s.conn, &w.s.send[w.ch]
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	signal(h.notify)
	if w.s.err != nil {
		return w.s.err
	}
	c.frameLocked(frameEOF, w.ch, w.s.id, nil)
	return nil
}

// fifo is a queue of bytes that grows up to a limit.
type fifo struct {
	buf []byte
	off int // bytes of buf that were taken
}

// minFIFO is the first size of a fifo in bytes: most answers are short.
const minFIFO = 512

// put appends p; fewer than limit bytes are in the queue with it.
func (f *fifo) put(p []byte, limit int) {
	used := len(f.buf) - f.off
	if len(f.buf)+len(p) > cap(f.buf) {
		to := f.buf[:0]
		if need := used + len(p); need > cap(f.buf) {
			size := max(minFIFO, cap(f.buf))
			for size < need {
				size *= 2
			}
			to = make([]byte, 0, max(need, min(size, limit)))
		}
		f.buf = append(to, f.buf[f.off:]...)
		f.off = 0
	}
	f.buf = append(f.buf, p...)
}

func (f *fifo) take(p []byte) int {
	n := copy(p, f.buf[f.off:])
	f.off += n
	if f.off == len(f.buf) {
		f.buf, f.off = f.buf[:0], 0
	}
	return n
}
