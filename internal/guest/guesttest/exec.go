package guesttest

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

// ringSize is the size of each ring of a command, in bytes.
const ringSize = 2 * guestproto.Window

// exec is one command, running or ended.
type exec struct {
	id          string
	stdin       *guestproto.Ring
	out, err    *guestproto.Ring
	cancel      context.CancelFunc
	done        chan struct{}
	exit        guestproto.ExecExit
	mu          sync.Mutex
	taken       int64
	stream      *guestproto.Stream
	release     bool
	stdinClosed bool
}

func (g *Guest) execStart(st *guestproto.Stream) (any, error) {
	var req guestproto.ExecStart
	if err := st.Request(&req); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(g.ctx)
	e := &exec{
		id:     req.ID,
		stdin:  guestproto.NewRing(ringSize, 0),
		out:    guestproto.NewRing(ringSize, guestproto.Window),
		err:    guestproto.NewRing(ringSize, guestproto.Window),
		cancel: cancel,
		done:   make(chan struct{}),
	}
	if !req.Stdin {
		e.stdin.CloseWrite()
		e.stdinClosed = true
	}
	g.mu.Lock()
	if g.execs[req.ID] != nil {
		g.mu.Unlock()
		cancel()
		return nil, guestproto.Errorf(guestproto.KindConflict, guestproto.CodeExecExists, "command %s exists", req.ID)
	}
	run := g.commands[string(req.Argv[0])]
	g.execs[req.ID] = e
	g.mu.Unlock()
	g.wg.Go(func() { g.run(ctx, e, run, &req) })
	return g.stream(st, e, 0, 0)
}

// run is the life of a command.
func (g *Guest) run(ctx context.Context, e *exec, run Command, req *guestproto.ExecStart) {
	defer e.cancel()
	defer context.AfterFunc(ctx, func() { e.stdin.Close() })()
	if req.TimeoutMillis > 0 {
		defer time.AfterFunc(time.Duration(req.TimeoutMillis)*time.Millisecond, e.cancel).Stop()
	}
	exit := guestproto.ExecExit{Code: 127}
	if run != nil {
		exit.Code = run(ctx, &Cmd{
			Argv:   guestproto.Strings(req.Argv),
			Env:    guestproto.Strings(req.Env),
			Stdin:  ringReader{ctx, e.stdin.Reader(0)},
			Stdout: e.out,
			Stderr: e.err,
		})
	}
	if ctx.Err() != nil {
		exit.Code, exit.Signal = -1, "SIGKILL"
	}
	_, exit.Stdout = e.out.Range()
	_, exit.Stderr = e.err.Range()
	e.exit = exit
	e.out.CloseWrite()
	e.err.CloseWrite()
	e.stdin.Close()
	close(e.done)
	e.mu.Lock()
	release := e.release
	e.mu.Unlock()
	if release {
		g.forget(e.id)
	}
}

type ringReader struct {
	ctx context.Context
	r   *guestproto.RingReader
}

func (r ringReader) Read(p []byte) (int, error) { return r.r.Read(r.ctx, p) }

// stream serves one stream of a command until the command or the stream ends.
func (g *Guest) stream(st *guestproto.Stream, e *exec, stdout, stderr int64) (any, error) {
	out, err := e.out.Reader(stdout), e.err.Reader(stderr)
	e.mu.Lock()
	if old := e.stream; old != nil {
		old.Fail(guestproto.Errorf(guestproto.KindConflict, guestproto.CodeExecTaken, "command %s was taken over", e.id))
	}
	e.stream = st
	started := guestproto.ExecStarted{Stdin: e.taken, Stdout: out.Offset(), Stderr: err.Offset()}
	e.mu.Unlock()
	g.mu.Lock()
	lag := g.lag
	g.mu.Unlock()
	if err := st.SendSoon(started, lag); err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	wg.Go(func() { send(st, guestproto.Stdout, out) })
	wg.Go(func() { send(st, guestproto.Stderr, err) })
	g.wg.Go(func() { e.receive(st) })
	wg.Wait()
	select {
	case <-e.done:
		return e.exit, nil
	case <-st.Done():
		return nil, st.Err()
	}
}

func send(st *guestproto.Stream, ch guestproto.Channel, r *guestproto.RingReader) {
	w := st.Writer(ch)
	buf := make([]byte, 8<<10)
	for {
		n, err := r.Read(st.Context(), buf)
		if err != nil {
			return
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return
		}
	}
}

// receive takes input from one stream.
func (e *exec) receive(st *guestproto.Stream) {
	r := st.Reader(guestproto.Stdin)
	buf := make([]byte, 8<<10)
	for {
		n, err := e.take(st, r, buf)
		if n > 0 {
			e.stdin.Write(buf[:n]) // fails when the command has ended
		}
		if errors.Is(err, io.EOF) && st.Err() == nil {
			e.stdin.CloseWrite()
		}
		if err != nil {
			return
		}
	}
}

// take reads from the stream that is the command's own, and counts.
func (e *exec) take(st *guestproto.Stream, r io.Reader, buf []byte) (int, error) {
	n, err := r.Read(buf)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stream != st {
		return 0, io.ErrClosedPipe
	}
	e.taken += int64(n)
	return n, err
}

func (g *Guest) find(id string) (*exec, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e := g.execs[id]; e != nil {
		return e, nil
	}
	return nil, guestproto.Errorf(guestproto.KindNotFound, guestproto.CodeExecNotFound, "no command %s", id)
}

func (g *Guest) execAttach(st *guestproto.Stream) (any, error) {
	var req guestproto.ExecAttach
	if err := st.Request(&req); err != nil {
		return nil, err
	}
	e, err := g.find(req.ID)
	if err != nil {
		return nil, err
	}
	return g.stream(st, e, req.Stdout, req.Stderr)
}

func (g *Guest) execSignal(st *guestproto.Stream) (any, error) {
	var req guestproto.ExecSignal
	if err := st.Request(&req); err != nil {
		return nil, err
	}
	e, err := g.find(req.ID)
	if err != nil {
		return nil, err
	}
	select {
	case <-e.done:
		return nil, guestproto.Errorf(guestproto.KindConflict, guestproto.CodeExecEnded, "command %s has ended", e.id)
	default:
	}
	e.cancel()
	return guestproto.Empty{}, nil
}

func (g *Guest) execRelease(st *guestproto.Stream) (any, error) {
	var req guestproto.ExecRelease
	if err := st.Request(&req); err != nil {
		return nil, err
	}
	for _, id := range req.IDs {
		e, err := g.find(id)
		if err != nil {
			continue
		}
		e.mu.Lock()
		e.release = true
		e.mu.Unlock()
		select {
		case <-e.done:
			g.forget(id)
		default:
		}
	}
	return guestproto.Empty{}, nil
}

func (g *Guest) forget(id string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.execs, id)
}
