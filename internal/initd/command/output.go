package command

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

const (
	// ringKeep is what a ring keeps of what was sent: a peer may be one whole
	// window behind when its session breaks, and the API's client 64 KiB more
	// behind its daemon (ExecWindow of the root package).
	ringKeep = guestproto.Window + 64<<10
	ringSize = ringKeep + 64<<10

	// smallOutput is what a command may print without asking the budget.
	smallOutput = 16 << 10

	// drainGrace is how long output is awaited after the command's main process
	// has ended while others still hold its pipes.
	drainGrace = 200 * time.Millisecond

	chunkSize = 32 << 10
)

// chunks are read buffers. A buffer is held while there is something to read
// only: thousands of silent commands hold none.
var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// output moves what a command prints from a pipe to a ring.
type output struct {
	pipe   *os.File // read end
	ring   *guestproto.Ring
	exited <-chan struct{} // the command's main process has ended
	memory *budget

	written  int64
	mu       sync.Mutex
	reserved bool
	given    bool // back to the budget, or never to be taken
}

func newOutput(exited <-chan struct{}, memory *budget) *output {
	return &output{ring: guestproto.NewRing(ringSize, ringKeep), exited: exited, memory: memory}
}

// pump runs until every writer of the pipe has gone. It calls ended once the
// ring has all that belongs to the command; what comes after that, from
// processes left in the background, is read and dropped, so that they do not
// die of SIGPIPE.
func (o *output) pump(ended func()) {
	defer o.pipe.Close()
	left := o.follow()
	for left > 0 {
		n, eof, err := o.read()
		if err != nil || eof {
			break
		}
		left -= n
	}
	o.ring.CloseWrite()
	ended()
	for discard := true; discard; {
		b := chunks.Get().(*[chunkSize]byte)
		discard = o.skip(b)
		chunks.Put(b)
	}
}

// follow copies until EOF (then nothing is left) or until the deadline that the
// command's end has set, and returns how many bytes wait in the pipe then.
func (o *output) follow() (left int) {
	for {
		_, eof, err := o.read()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return o.waiting()
		case err != nil || eof:
			return 0
		}
	}
}

// waiting returns what is in the pipe now and lifts the deadline. Only so much
// is still copied: a background process may write faster than we read.
func (o *output) waiting() int {
	if o.pipe.SetReadDeadline(time.Time{}) != nil {
		return 0
	}
	raw, err := o.pipe.SyscallConn()
	if err != nil {
		return 0
	}
	var n int
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil || err != nil {
		return 0
	}
	return n
}

// read moves one chunk from the pipe to the ring.
func (o *output) read() (n int, eof bool, err error) {
	raw, err := o.pipe.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	var b *[chunkSize]byte
	var rerr error
	err = raw.Read(func(fd uintptr) bool {
		b = chunks.Get().(*[chunkSize]byte)
		n, rerr = ignoringEINTR(func() (int, error) { return syscall.Read(int(fd), b[:o.most()]) })
		if errors.Is(rerr, unix.EAGAIN) {
			chunks.Put(b)
			b = nil
			return false
		}
		return true
	})
	if b != nil {
		defer chunks.Put(b)
	}
	if err = errors.Join(err, rerr); err != nil || n <= 0 {
		return 0, true, err
	}
	o.reserve(int64(n))
	_, err = o.ring.Write(b[:n])
	return n, false, err
}

// most is how much to read at a time: up to where the budget has to be asked.
func (o *output) most() int64 {
	if o.written < smallOutput {
		return smallOutput - o.written
	}
	return chunkSize
}

// skip drops what there is to read; false when every writer has gone.
func (o *output) skip(b *[chunkSize]byte) bool {
	n, err := o.pipe.Read(b[:])
	return n > 0 && err == nil
}

// reserve asks the budget for the ring before it grows large. A command whose
// main process has ended has little left to say and is not held up.
func (o *output) reserve(n int64) {
	o.written += n
	if o.written <= smallOutput {
		return
	}
	o.mu.Lock()
	skip := o.reserved || o.given
	o.mu.Unlock()
	if skip || !o.memory.acquire(ringSize, o.exited) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.given {
		o.memory.release(ringSize)
		return
	}
	o.reserved = true
}

// giveBack ends the reservation.
func (o *output) giveBack() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reserved && !o.given {
		o.memory.release(ringSize)
	}
	o.given = true
}

// drop forgets what is kept and reports whether that gave memory back.
func (o *output) drop() bool {
	o.mu.Lock()
	gives := o.reserved && !o.given
	o.mu.Unlock()
	if gives {
		o.ring.Drop()
		o.giveBack()
	}
	return gives
}

// finish bounds how long the rest of the output is awaited.
func (o *output) finish() {
	// It fails when the pump has seen EOF and closed the pipe: all is there.
	_ = o.pipe.SetReadDeadline(time.Now().Add(drainGrace))
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
