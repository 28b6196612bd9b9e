package layer

import (
	"errors"
	"io"
)

// Blocks of decompressed bytes travel from one goroutine to the other. Few and
// small ones keep them in the processor's cache.
const (
	blockSize  = 128 << 10
	blockCount = 4
)

// errAhead stands for the error of the goroutine that fills a readAhead.
var errAhead = errors.New("reading ahead has ended early")

// errStopped ends the filling when nobody reads any more.
var errStopped = errors.New("reading has stopped")

// readAhead is a pipe with a few blocks of buffer. One goroutine runs fill,
// another reads; stop may be called by the reader at any time.
type readAhead struct {
	full    chan []byte
	free    chan []byte
	stopped chan struct{}
	done    chan struct{} // closed when fill has ended
	err     error         // of fill; valid once done is closed

	block, rest []byte // the reader's
}

func newReadAhead() *readAhead {
	r := &readAhead{
		full:    make(chan []byte, blockCount),
		free:    make(chan []byte, blockCount),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}
	for range blockCount {
		r.free <- make([]byte, 0, blockSize)
	}
	return r
}

// fill runs produce with a Writer that feeds the reader.
func (r *readAhead) fill(produce func(w io.Writer) error) {
	defer close(r.full)
	defer close(r.done)
	w := &aheadWriter{r: r}
	if r.err = produce(w); r.err == nil {
		r.err = w.flush()
	}
}

// stop ends the filling and waits for it. It returns the error of fill.
func (r *readAhead) stop() error {
	close(r.stopped)
	<-r.done
	return r.err
}

// Read returns errAhead where filling has failed; stop has the reason.
func (r *readAhead) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.block != nil {
			r.free <- r.block[:0] // has room for every block there is
			r.block = nil
		}
		block, ok := <-r.full
		if !ok {
			if r.err != nil {
				return 0, errAhead
			}
			return 0, io.EOF
		}
		r.block, r.rest = block, block
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

type aheadWriter struct {
	r     *readAhead
	block []byte
}

func (w *aheadWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if w.block == nil {
			select {
			case w.block = <-w.r.free:
			case <-w.r.stopped:
				return 0, errStopped
			}
		}
		k := min(len(p), blockSize-len(w.block))
		w.block = append(w.block, p[:k]...)
		p = p[k:]
		if len(w.block) == blockSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *aheadWriter) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	select {
	case w.r.full <- w.block:
		w.block = nil
		return nil
	case <-w.r.stopped:
		return errStopped
	}
}
