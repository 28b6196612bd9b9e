package httpapi

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const (
	// execsKept is how many ended commands are remembered for status calls;
	// the guest keeps as many.
	execsKept = 4096
	// statusPatience is how long a status call waits for the guest to say
	// that a command, of which we know nothing, has ended.
	statusPatience = 250 * time.Millisecond
)

// endOfOutput asks for no output that has been there before.
var endOfOutput = machine.Offsets{Stdout: math.MaxInt64, Stderr: math.MaxInt64}

type execKey struct {
	machine machine.ID
	exec    string
}

// execs knows the commands of this daemon: which session holds which, and how
// ended ones ended. A command has at most one session; a new one ends the old.
type execs struct {
	log   *slog.Logger
	grace time.Duration
	ctx   context.Context // ends with close
	stop  context.CancelFunc
	wg    sync.WaitGroup // sessions

	mu     sync.Mutex
	closed bool
	held   map[execKey]*session
	plain  map[execKey]int                // buffered execs that run
	ended  map[execKey]machine.ExitStatus // the newest execsKept
	order  []execKey                      // of ended, oldest first
}

func newExecs(log *slog.Logger, grace time.Duration) *execs {
	ctx, stop := context.WithCancel(context.Background())
	return &execs{
		log: log, grace: grace, ctx: ctx, stop: stop,
		held: map[execKey]*session{}, plain: map[execKey]int{}, ended: map[execKey]machine.ExitStatus{},
	}
}

// close ends every session, leaves the commands running, and waits.
func (e *execs) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	e.wg.Wait()
}

var errClosing = errdefs.New(errdefs.Unavailable, "SHUTTING_DOWN", "the daemon is shutting down")

// run gives the command to a new session, which runs until the command has
// ended, nobody wants it any more, or another session takes over. Of two that
// attach at the same time the later one stays.
func (e *execs) run(key execKey, s *session) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosing
	}
	ctx, stop := context.WithCancel(e.ctx)
	s.stop = stop
	s.ended = func(exit machine.ExitStatus) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.remember(key, exit)
	}
	if old := e.held[key]; old != nil {
		old.stop()
	}
	e.held[key] = s
	e.wg.Go(func() {
		defer stop()
		s.run(ctx, e.grace)
		if s.release != nil {
			s.release()
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.held[key] == s {
			delete(e.held, key)
		}
		close(s.done)
	})
	return nil
}

// release ends the session that holds the command, so that another one can
// attach, and waits for it.
func (e *execs) release(key execKey) error {
	e.mu.Lock()
	s, busy := e.held[key], e.plain[key] > 0
	e.mu.Unlock()
	if busy {
		return errdefs.New(errdefs.Conflict, "EXEC_BUFFERED", "command %q is not streamed: its caller waits for its output", key.exec)
	}
	if s != nil {
		s.stop()
		<-s.done
	}
	return nil
}

// buffered notes a command that its own request handles; the result tells how
// it ended.
func (e *execs) buffered(key execKey) func(machine.ExitStatus, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plain[key]++
	return func(exit machine.ExitStatus, err error) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.plain[key]--; e.plain[key] == 0 {
			delete(e.plain, key)
		}
		if err == nil {
			e.remember(key, exit)
		}
	}
}

// running counts the commands that have a session or a caller here.
func (e *execs) running() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := len(e.held)
	for _, callers := range e.plain {
		n += callers
	}
	return n
}

// remember needs mu.
func (e *execs) remember(key execKey, exit machine.ExitStatus) {
	if _, ok := e.ended[key]; !ok {
		e.order = append(e.order, key)
	}
	e.ended[key] = exit
	if len(e.order) > execsKept {
		delete(e.ended, e.order[0])
		e.order = append([]execKey(nil), e.order[1:]...)
	}
}

// known returns how a command ended, or nil when it runs; false when this
// daemon does not know it.
func (e *execs) known(key execKey) (*machine.ExitStatus, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if exit, ok := e.ended[key]; ok {
		return &exit, true
	}
	return nil, e.held[key] != nil || e.plain[key] > 0
}

// status is known for any command: one that an earlier daemon started is
// attached to, and then held without a client.
func (e *execs) status(ctx context.Context, key execKey, attach func() (machine.Process, error)) (*machine.ExitStatus, error) {
	if exit, ok := e.known(key); ok {
		return exit, nil
	}
	proc, err := attach()
	if err != nil {
		return nil, err
	}
	s := newSession(proc, nil, e.log.With("machine", string(key.machine)))
	if err := e.run(key, s); err != nil {
		letGo(proc)
		return nil, err
	}
	patience := time.NewTimer(statusPatience)
	defer patience.Stop()
	select {
	case <-s.done:
	case <-patience.C:
	case <-ctx.Done():
	}
	exit, _ := e.known(key)
	return exit, nil
}
