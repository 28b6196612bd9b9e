package hyperfleet

import (
	"errors"
	"io"
	"sync"
)

// stdinKeep is how much acknowledged input is kept: the daemon acknowledges
// what it took over, and when it dies the guest may not have got all of that.
// The guest's window and the daemon's buffers are less than that together.
const stdinKeep = 512 << 10

// stdinWindow is the part of a command's input that may have to be sent again.
// Offsets count from the first byte of input. One goroutine fills it; one at a
// time sends from it.
type stdinWindow struct {
	mu    sync.Mutex
	cond  *sync.Cond
	buf   []byte
	base  int64 // offset of buf[0]
	acked int64
	eof   bool // no more will be filled in
	done  bool // closed
}

func newStdinWindow() *stdinWindow {
	w := &stdinWindow{}
	w.cond = sync.NewCond(&w.mu)
	return w
}

// fill reads r to its end, as far as the window allows.
func (w *stdinWindow) fill(r io.Reader) {
	chunk := make([]byte, 32<<10)
	for {
		n, err := r.Read(chunk)
		w.mu.Lock()
		w.buf = append(w.buf, chunk[:n]...)
		w.eof = err != nil
		w.cond.Broadcast()
		for !w.done && w.base+int64(len(w.buf))-w.acked >= ExecWindow {
			w.cond.Wait()
		}
		stop := w.eof || w.done
		w.mu.Unlock()
		if stop {
			return
		}
	}
}

// ack drops what is no longer needed.
func (w *stdinWindow) ack(at int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at <= w.acked || at > w.base+int64(len(w.buf)) {
		return
	}
	w.acked = at
	if drop := at - stdinKeep - w.base; drop > stdinKeep/2 {
		w.buf = append([]byte(nil), w.buf[drop:]...)
		w.base += drop
	}
	w.cond.Broadcast()
}

var errInputLost = errors.New("input of the command was lost")

// rewind checks that sending can go on at the offset.
func (w *stdinWindow) rewind(at int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at < w.base || at > w.base+int64(len(w.buf)) {
		return errInputLost
	}
	w.acked = max(w.acked, at)
	w.cond.Broadcast()
	return nil
}

// next waits for input at the offset. It returns nil when ended is closed or
// the offset is kept no more, and nil and true at the end of the input.
func (w *stdinWindow) next(at int64, ended <-chan struct{}) (chunk []byte, eof bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		select {
		case <-ended:
			return nil, false
		default:
		}
		if at < w.base {
			return nil, false // the server has acknowledged what it was not sent
		}
		if rest := w.buf[at-w.base:]; len(rest) > 0 {
			return append([]byte(nil), rest[:min(len(rest), MaxFramePayload)]...), false
		}
		if w.eof {
			return nil, true
		}
		w.cond.Wait()
	}
}

// wake makes a waiting next look at its ended channel.
func (w *stdinWindow) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cond.Broadcast()
}

// close ends fill.
func (w *stdinWindow) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = true
	w.cond.Broadcast()
}
