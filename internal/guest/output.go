package guest

import (
	"errors"
	"io"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

// output reads one output stream of a command.
type output struct {
	p  *process
	ch guestproto.Channel

	mu   sync.Mutex // held while the current stream is read
	off  int64      // offset of the next byte
	last *guestproto.Stream
}

func (o *output) offset() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.off
}

// Read implements io.Reader.
func (o *output) Read(b []byte) (int, error) {
	for {
		st, err := o.p.current(o.last)
		if err != nil {
			return 0, err
		}
		n, err := o.read(st, b)
		if n > 0 || len(b) == 0 {
			return n, nil
		}
		if errors.Is(err, io.EOF) {
			return 0, o.p.checkEnd(o, st)
		}
		o.last = st
	}
}

func (o *output) read(st *guestproto.Stream, b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := st.Reader(o.ch).Read(b)
	o.off += int64(n)
	return n, err
}

// current waits for a stream other than last.
func (p *process) current(last *guestproto.Stream) (*guestproto.Stream, error) {
	for {
		p.mu.Lock()
		st, failed, changed := p.stream, p.failed, p.changed
		p.mu.Unlock()
		if st != nil && st != last {
			return st, nil
		}
		if failed != nil {
			return nil, failed
		}
		<-changed
	}
}

// checkEnd is io.EOF when the guest says that the output is as long as what
// was read.
func (p *process) checkEnd(o *output, st *guestproto.Stream) error {
	if errors.Is(st.Err(), guestproto.ErrEnded) {
		<-p.done // follow is about to take the result
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	want := p.exit.Stdout
	if o.ch == guestproto.Stderr {
		want = p.exit.Stderr
	}
	if p.exited && want != o.offset() {
		return errdefs.New(errdefs.Guest, "EXEC_OUTPUT_LOST", "%d of %d bytes of output of command %s came", o.offset(), want, p.id)
	}
	return io.EOF
}
