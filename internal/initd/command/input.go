package command

import (
	"errors"
	"io"
	"os"
	"sync"
)

// inputChunk is how much input is read from a stream at a time, in bytes.
const inputChunk = 4 << 10

// input is a command's standard input. One claim at a time feeds it.
type input struct {
	mu    sync.Mutex
	pipe  *os.File // write end; nil when the command reads /dev/null, or it is closed
	taken int64    // bytes accepted from claims
	claim *InputClaim
}

// InputClaim is one stream's right to feed a command. A later claim ends it.
type InputClaim struct {
	// Taken is the offset of the first byte that the command wants.
	Taken int64

	in    *input
	prev  <-chan struct{} // closed when the claims before have written all they took
	lost  chan struct{}   // closed by a later claim
	done  chan struct{}
	feeds bool // it has had its turn; guarded by in.mu
}

// Claim takes over the input. Feed must be called, unless
// the command has no input.
func (in *input) Claim() *InputClaim {
	in.mu.Lock()
	defer in.mu.Unlock()
	c := &InputClaim{Taken: in.taken, in: in, lost: make(chan struct{}), done: make(chan struct{})}
	if old := in.claim; old != nil {
		close(old.lost)
		c.prev = old.prev
		if old.feeds {
			c.prev = old.done
		}
	}
	in.claim = c
	return c
}

// Feed copies r to the command until r ends. Only io.EOF closes the command's
// input: after any other error another claim goes on. Once the command reads
// no more, what r has is dropped. Feed returns when all that it took has been
// written.
func (c *InputClaim) Feed(r io.Reader) {
	defer close(c.done)
	if c.prev != nil {
		select {
		case <-c.prev:
		case <-c.lost: // the next one waits for it instead of us
			return
		}
	}
	if !c.in.begin(c) {
		return
	}
	buf := make([]byte, inputChunk)
	for {
		n, err := r.Read(buf)
		pipe, ok := c.in.take(c, n)
		if !ok {
			return
		}
		if n > 0 && pipe != nil {
			if _, werr := pipe.Write(buf[:n]); werr != nil {
				c.in.close()
			}
		}
		if errors.Is(err, io.EOF) {
			c.in.closeFor(c)
		}
		if err != nil {
			return
		}
	}
}

// begin notes that the claim's turn has come; false when it was taken over.
func (in *input) begin(c *InputClaim) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	c.feeds = in.claim == c
	return c.feeds
}

// take accounts for n bytes; ok is false when c was taken over: then they are
// not ours any more.
func (in *input) take(c *InputClaim, n int) (pipe *os.File, ok bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.claim != c {
		return nil, false
	}
	in.taken += int64(n)
	return in.pipe, true
}

func (in *input) closeFor(c *InputClaim) {
	if _, ok := in.take(c, 0); ok {
		in.close()
	}
}

// close gives the command EOF. It is idempotent.
func (in *input) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.pipe != nil {
		in.pipe.Close()
		in.pipe = nil
	}
}
