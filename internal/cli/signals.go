package cli

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// signalError is the cause of a context that a signal has ended.
type signalError struct {
	name   string
	number int
}

func (e signalError) Error() string { return e.name }

// signalRouter owns the process's signals: they end the program's context, or
// go to a command that runs in a machine.
type signalRouter struct {
	in     chan os.Signal
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu   sync.Mutex
	sink chan<- string // nil: the program's own
}

func newSignalRouter(cancel context.CancelCauseFunc) *signalRouter {
	r := &signalRouter{in: make(chan os.Signal, 16), cancel: cancel}
	// SIGPIPE would end the process and leave its machine behind; the write
	// that it comes from fails instead.
	signal.Notify(r.in, syscall.SIGPIPE, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	r.wg.Go(func() {
		for sig := range r.in {
			r.route(sig)
		}
	})
	return r
}

func (r *signalRouter) route(sig os.Signal) {
	number, ok := sig.(syscall.Signal)
	if !ok || number == syscall.SIGPIPE {
		return
	}
	name := unix.SignalName(number)
	r.mu.Lock()
	defer r.mu.Unlock()
	// A command that has not taken the last signal is not there: it has not
	// started, or its guest stands still. The next one is for this program.
	ends := number == syscall.SIGINT || number == syscall.SIGTERM
	if r.sink != nil && (!ends || len(r.sink) == 0) {
		select {
		case r.sink <- name:
		default: // it has more signals to handle than anybody can send by hand
		}
		return
	}
	if number != syscall.SIGUSR1 && number != syscall.SIGUSR2 {
		r.cancel(signalError{name, int(number)})
	}
}

// forward sends signals to the returned channel until stop is called.
func (r *signalRouter) forward() (signals <-chan string, stop func()) {
	ch := make(chan string, 16)
	r.set(ch)
	return ch, func() { r.set(nil) }
}

func (r *signalRouter) set(sink chan<- string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sink = sink
}

func (r *signalRouter) close() {
	signal.Stop(r.in)
	close(r.in)
	r.wg.Wait()
}

// signalNumber is the number of a signal's name, of a guest that is Linux.
func signalNumber(name string) int {
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	return int(unix.SignalNum(name))
}
