package initd

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
)

// AgentConfig is what an Agent works with.
type AgentConfig struct {
	Version string // of init, told to the host
	Log     *log.Logger

	// Setup makes the guest ready; it is called once, for the first boot
	// message. Until it has returned, requests wait.
	Setup func(guestproto.Boot) (*command.Engine, error)
	// SetClock is called with the host's time in each session.
	SetClock func(time.Time) error
	// Shutdown ends all commands and makes the file systems safe; it is called
	// once. Reboot is called after the host has been told.
	Shutdown func(grace time.Duration) error
	Reboot   func()

	Session guestproto.Config
}

// Agent answers the host's requests. It outlives sessions: commands and the
// state of the guest belong to it. Make one with NewAgent.
type Agent struct {
	cfg      AgentConfig
	handlers map[guestproto.Method]handler
	wg       sync.WaitGroup

	setup  sync.Once
	booted chan struct{} // closed when Setup has returned
	// The following are valid once booted is closed.
	bootErr error
	engine  *command.Engine
	boot    guestproto.Boot

	stop    sync.Once
	stopped chan struct{} // closed when Shutdown has returned
	stopErr error         // valid then
}

// handler answers one request; its result or error ends the stream.
type handler func(context.Context, *guestproto.Stream) (result any, err error)

// NewAgent returns an Agent that serves nobody yet.
func NewAgent(cfg AgentConfig) *Agent {
	a := &Agent{cfg: cfg, booted: make(chan struct{}), stopped: make(chan struct{})}
	a.handlers = map[guestproto.Method]handler{
		guestproto.MethodPing:        a.ping,
		guestproto.MethodBoot:        a.bootUp,
		guestproto.MethodClock:       a.clock,
		guestproto.MethodShutdown:    a.shutdown,
		guestproto.MethodExecStart:   a.execStart,
		guestproto.MethodExecAttach:  a.execAttach,
		guestproto.MethodExecSignal:  a.execSignal,
		guestproto.MethodExecRelease: a.execRelease,
		guestproto.MethodFileRead:    a.fileRead,
		guestproto.MethodFileWrite:   a.fileWrite,
		guestproto.MethodFileStat:    a.fileStat,
		guestproto.MethodFileList:    a.fileList,
		guestproto.MethodFileMkdir:   a.fileMkdir,
		guestproto.MethodFileRemove:  a.fileRemove,
		guestproto.MethodFileRename:  a.fileRename,
	}
	return a
}

// Sessions that break or do not come about are tried again after a pause: a
// virtio-serial port without a host reads EOF at once, again and again.
const (
	minPause = 5 * time.Millisecond
	maxPause = 250 * time.Millisecond
)

// Serve makes session after session over what dial opens, until ctx is done. It
// returns when all requests have been let go of.
func (a *Agent) Serve(ctx context.Context, dial func(context.Context) (io.ReadWriteCloser, error)) error {
	defer a.wg.Wait()
	pause := minPause
	var told string
	for ctx.Err() == nil {
		err := a.session(ctx, dial)
		switch {
		case err == nil:
			pause, told = minPause, ""
		case err.Error() != told && ctx.Err() == nil:
			told = err.Error()
			a.cfg.Log.Printf("agent session: %v", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
	return context.Cause(ctx)
}

// session makes one session and serves it to its end; an error means that it
// did not come about.
func (a *Agent) session(ctx context.Context, dial func(context.Context) (io.ReadWriteCloser, error)) error {
	rwc, err := dial(ctx)
	if err != nil {
		return err
	}
	conn, err := guestproto.Accept(ctx, rwc, a.cfg.Session)
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		s, err := conn.Accept(ctx)
		if err != nil {
			return nil
		}
		a.wg.Go(func() { a.handle(conn, s) })
	}
}

// handle answers one request. Whatever goes wrong in it, PID 1 goes on.
func (a *Agent) handle(conn *guestproto.Conn, s *guestproto.Stream) {
	defer s.Close()
	defer func() {
		if v := recover(); v != nil {
			a.cfg.Log.Printf("request %s: panic: %v\n%s", s.Method(), v, debug.Stack())
			_ = s.Fail(guestproto.Errorf(guestproto.KindGuest, "GUEST_PANIC", "the agent has a defect"))
		}
	}()
	h := a.handlers[s.Method()]
	if h == nil {
		_ = s.Fail(guestproto.Errorf(guestproto.KindUnsupported, guestproto.CodeUnknown, "no method %q", s.Method()))
		return
	}
	// What ends a stream needs no look at its own error: the host has gone then.
	result, err := h(s.Context(), s)
	if err != nil {
		_ = s.Fail(wireError(err))
		return
	}
	_ = s.End(result)
	if s.Method() == guestproto.MethodShutdown {
		a.reboot(conn)
	}
}

// lastWords is how long the answer to a shutdown may take to reach the host.
const lastWords = 2 * time.Second

func (a *Agent) reboot(conn *guestproto.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	_ = conn.Flush(ctx) // a host that does not listen loses the message only
	a.cfg.Reboot()
}

// wireError makes err fit for the host, which maps an errno by its own table.
func wireError(err error) error {
	if _, ok := errors.AsType[*guestproto.Error](err); ok {
		return err
	}
	out := guestproto.Errorf(guestproto.KindGuest, "GUEST_ERROR", "%v", err)
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		out.Errno = int(errno)
	}
	if perr, ok := errors.AsType[*fs.PathError](err); ok {
		out.Message = perr.Op + ": " + perr.Err.Error() // the host knows the path
	}
	return out
}

func (a *Agent) ping(context.Context, *guestproto.Stream) (any, error) {
	return guestproto.Empty{}, nil
}

func (a *Agent) clock(_ context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.Clock
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	return guestproto.Empty{}, a.cfg.SetClock(time.Unix(0, req.UnixNano))
}

// bootUp starts the set-up, or waits for the one that runs; all are told the
// same.
func (a *Agent) bootUp(ctx context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.Boot
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	a.setup.Do(func() { a.wg.Go(func() { a.setUp(req) }) })
	if err := a.ready(ctx); err != nil {
		return nil, err
	}
	return guestproto.Ready{InitVersion: a.cfg.Version, Kernel: kernelRelease()}, nil
}

// setUp does not depend on the session that asked for it.
func (a *Agent) setUp(req guestproto.Boot) {
	defer close(a.booted)
	defer func() {
		if v := recover(); v != nil {
			a.bootErr = guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBoot, "set up the guest: panic: %v", v)
			a.cfg.Log.Printf("set up: panic: %v\n%s", v, debug.Stack())
		}
	}()
	a.boot = req
	engine, err := a.cfg.Setup(req)
	if err != nil {
		a.cfg.Log.Printf("set up the guest: %v", err)
		a.bootErr = guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBoot, "set up the guest: %v", err)
		return
	}
	a.engine = engine
}

// ready waits until the guest is set up.
func (a *Agent) ready(ctx context.Context) error {
	select {
	case <-a.booted:
		return a.bootErr
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// isReady fails unless the guest is set up.
func (a *Agent) isReady() error {
	select {
	case <-a.booted:
		return a.bootErr
	default:
		return guestproto.Errorf(guestproto.KindUnavailable, guestproto.CodeNotReady, "the guest is not set up yet")
	}
}

func (a *Agent) shutdown(ctx context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.Shutdown
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	a.wg.Go(func() { a.Stop(time.Duration(req.GraceMillis) * time.Millisecond) })
	select {
	case <-a.stopped:
		return guestproto.Empty{}, a.stopErr
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Stop ends the guest's commands and makes its file systems safe, once; later
// calls wait for the first. A set-up that is at work ends before, and none
// begins any more. It does not reboot.
func (a *Agent) Stop(grace time.Duration) {
	a.stop.Do(func() {
		defer close(a.stopped)
		a.setup.Do(func() {
			a.bootErr = guestproto.Errorf(guestproto.KindUnavailable, guestproto.CodeNotReady, "the guest is shutting down")
			close(a.booted)
		})
		<-a.booted
		if a.stopErr = a.cfg.Shutdown(grace); a.stopErr != nil {
			a.cfg.Log.Printf("shut down: %v", a.stopErr)
		}
	})
	<-a.stopped
}

func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
