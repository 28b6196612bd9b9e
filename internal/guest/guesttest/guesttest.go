// Package guesttest is a guest in the test's own process: it speaks the real
// session protocol over unix sockets or pipes, runs commands that are Go
// functions and keeps files in memory.
//
// It is for tests of whatever uses machine.Guests. It is no model of a guest's
// speed, users or processes. All methods are safe for concurrent use.
package guesttest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

// Command is a program of the guest, found by argv[0]. Its result is the exit
// status; a ctx that is done means that it was killed. Stdin reads io.EOF when
// the request had none.
type Command func(ctx context.Context, c *Cmd) int

// Cmd is one run of a Command.
type Cmd struct {
	Argv           []string
	Env            []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Guest is the fake. Close it at the end of the test.
type Guest struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	commands map[string]Command
	execs    map[string]*exec
	files    map[string]file
	conns    map[*guestproto.Conn]struct{}
	boot     guestproto.Boot
	boots    int
	bootErr  error
	dead     bool
	shutdown chan struct{}
	wrap     func(net.Conn) net.Conn
	lag      time.Duration
}

// New starts a guest with the commands "true", "false", "cat" (stdin to stdout)
// and "echo".
func New(ctx context.Context) *Guest {
	g := &Guest{
		commands: map[string]Command{
			"true":  func(context.Context, *Cmd) int { return 0 },
			"false": func(context.Context, *Cmd) int { return 1 },
			"cat":   cat,
			"echo":  echo,
		},
		execs:    map[string]*exec{},
		files:    map[string]file{"/": dir()},
		conns:    map[*guestproto.Conn]struct{}{},
		shutdown: make(chan struct{}),
		lag:      20 * time.Millisecond,
	}
	g.ctx, g.cancel = context.WithCancel(ctx)
	return g
}

// Handle adds or replaces a command.
func (g *Guest) Handle(name string, c Command) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.commands[name] = c
}

// FailBoot makes the guest answer its boot configuration with err.
func (g *Guest) FailBoot(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bootErr = err
}

// Wrap puts f around the guest's end of every connection made later.
func (g *Guest) Wrap(f func(net.Conn) net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wrap = f
}

// DelayStart sets how long the news of a command's start waits for company.
func (g *Guest) DelayStart(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lag = d
}

// Boot returns the last boot configuration and how many came.
func (g *Guest) Boot() (guestproto.Boot, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.boot, g.boots
}

// ShutDown is closed when the guest was asked to shut down.
func (g *Guest) ShutDown() <-chan struct{} { return g.shutdown }

// Execs is how many commands the guest remembers.
func (g *Guest) Execs() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.execs)
}

// Break ends all sessions. Commands go on, and Dial works at once.
func (g *Guest) Break() {
	g.mu.Lock()
	conns := g.conns
	g.conns = map[*guestproto.Conn]struct{}{}
	g.mu.Unlock()
	for c := range conns {
		c.Close()
	}
}

// Kill is the sudden end of the guest: sessions and commands end, and Dial
// blocks from now on.
func (g *Guest) Kill() {
	g.mu.Lock()
	g.dead = true
	g.mu.Unlock()
	g.Break() // first, so that the ends of commands are not told any more
	g.cancel()
}

// Close ends the guest and waits for its goroutines.
func (g *Guest) Close() {
	g.Kill()
	g.wg.Wait()
}

// Dial is the dial function for machine.Guests.
func (g *Guest) Dial(ctx context.Context) (net.Conn, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead {
		g.mu.Unlock()
		<-ctx.Done()
		g.mu.Lock()
		return nil, context.Cause(ctx)
	}
	host, guest, err := socketPair()
	if err != nil {
		return nil, err
	}
	if g.wrap != nil {
		guest = g.wrap(guest)
	}
	g.wg.Go(func() { g.serve(guest) })
	return host, nil
}

// serve is one session of the guest.
func (g *Guest) serve(nc net.Conn) {
	conn, err := guestproto.Accept(g.ctx, nc, guestproto.Config{})
	if err != nil {
		return
	}
	defer conn.Close()
	g.mu.Lock()
	if g.dead {
		g.mu.Unlock()
		return
	}
	g.conns[conn] = struct{}{}
	g.mu.Unlock()
	for {
		st, err := conn.Accept(g.ctx)
		if err != nil {
			return
		}
		g.wg.Go(func() {
			defer st.Close()
			result, err := g.handle(st)
			if err != nil {
				st.Fail(err)
				return
			}
			st.End(result)
		})
	}
}

func (g *Guest) handle(st *guestproto.Stream) (any, error) {
	switch st.Method() {
	case guestproto.MethodBoot:
		return g.handleBoot(st)
	case guestproto.MethodPing, guestproto.MethodClock:
		return guestproto.Empty{}, nil
	case guestproto.MethodShutdown:
		g.mu.Lock()
		defer g.mu.Unlock()
		select {
		case <-g.shutdown:
		default:
			close(g.shutdown)
		}
		return guestproto.Empty{}, nil
	case guestproto.MethodExecStart:
		return g.execStart(st)
	case guestproto.MethodExecAttach:
		return g.execAttach(st)
	case guestproto.MethodExecSignal:
		return g.execSignal(st)
	case guestproto.MethodExecRelease:
		return g.execRelease(st)
	default:
		return g.handleFile(st)
	}
}

func (g *Guest) handleBoot(st *guestproto.Stream) (any, error) {
	var req guestproto.Boot
	if err := st.Request(&req); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.boot = req
	g.boots++
	if g.bootErr != nil {
		return nil, g.bootErr
	}
	return guestproto.Ready{Kernel: "guesttest"}, nil
}

// socketPair returns both ends of a unix socket.
func socketPair() (net.Conn, net.Conn, error) {
	l, err := net.Listen("unix", "@") // autobind: an abstract, unused address (unix(7))
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	a, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	b, err := l.Accept()
	if err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	return a, b, nil
}

func cat(_ context.Context, c *Cmd) int {
	if _, err := io.Copy(c.Stdout, c.Stdin); err != nil {
		return 1
	}
	return 0
}

func echo(_ context.Context, c *Cmd) int {
	for i, a := range c.Argv[1:] {
		if i > 0 {
			io.WriteString(c.Stdout, " ")
		}
		io.WriteString(c.Stdout, a)
	}
	io.WriteString(c.Stdout, "\n")
	return 0
}
