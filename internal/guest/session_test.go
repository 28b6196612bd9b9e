package guest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guest/guesttest"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestReadySendsBootConfig(t *testing.T) {
	g, s := start(t)
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	b, n := g.Boot()
	if n != 1 || b.Hostname != "box" || !b.Overlay || b.Volumes[0] != "/data" || b.Network.Gateway != "10.0.2.2" ||
		b.Env[0] != "A=1" || b.WorkDir != "/w" || b.User != "1:2" {
		t.Fatalf("boot %d: %+v", n, b)
	}
	g.Break()
	await(t, "second session", func() bool { _, n := g.Boot(); return n == 2 })
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestBootFailureIsTold(t *testing.T) {
	g := guesttest.New(context.Background())
	defer g.Close()
	g.FailBoot(guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBoot, "mount /dev/vdb: bad superblock"))
	s := openSession(t, g)
	err := s.Ready(t.Context())
	requireKind(t, err, errdefs.Guest, guestproto.CodeBoot)
	_, err = s.Stat(t.Context(), "/")
	requireKind(t, err, errdefs.Guest, guestproto.CodeBoot)
	g.Break()
	await(t, "second boot", func() bool { _, n := g.Boot(); return n == 2 })
	requireKind(t, s.Ready(t.Context()), errdefs.Guest, guestproto.CodeBoot)
}

func TestWaitsAreBoundedByContext(t *testing.T) {
	g, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	g.Kill()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := p.Wait(ctx)
	requireKind(t, err, errdefs.Timeout, "GUEST_TIMEOUT")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v", err)
	}
	_, err = s.Stat(ctx, "/")
	requireKind(t, err, errdefs.Unavailable, "GUEST_UNREACHABLE")
	requireKind(t, p.Signal(ctx, 9), errdefs.Unavailable, "GUEST_UNREACHABLE")
}

// When the guest dies and nobody bounds a wait, Close ends it.
func TestCloseEndsAllWaits(t *testing.T) {
	g, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	g.Kill()
	ended := make(chan error, 5)
	go func() { _, err := p.Wait(context.Background()); ended <- err }()
	go func() { _, err := p.Stdout().Read(make([]byte, 1)); ended <- err }()
	go func() { _, err := p.Stderr().Read(make([]byte, 1)); ended <- err }()
	go func() { ended <- s.Ready(context.Background()) }()
	go func() {
		_, err := s.Exec(context.Background(), machine.ExecRequest{ID: "b", Argv: []string{"true"}})
		ended <- err
	}()
	full := make(chan error, 1)
	go func() { _, err := p.Stdin().Write(make([]byte, 2*inputSize)); full <- err }()
	s.Close()
	for range 5 {
		requireKind(t, <-ended, errdefs.Unavailable, "GUEST_SESSION_CLOSED")
	}
	if err := <-full; !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write of input: %v", err)
	}
	s.Close()
	_, err := s.Stat(t.Context(), "/")
	requireKind(t, err, errdefs.Unavailable, "GUEST_SESSION_CLOSED")
}

func TestDialErrorsAreTriedAgain(t *testing.T) {
	g := guesttest.New(context.Background())
	defer g.Close()
	tries, notes := 0, make(chan string, 8)
	s := New(context.Background(), slog.New(slog.DiscardHandler)).Open("m1", machine.BootConfig{},
		func(ctx context.Context) (net.Conn, error) {
			if tries++; tries < 4 {
				return nil, syscall.ECONNREFUSED
			}
			return g.Dial(ctx)
		}, func(event string) { notes <- event })
	defer s.Close()
	if err := s.Ready(t.Context()); err != nil || tries != 4 {
		t.Fatalf("after %d tries: %v", tries, err)
	}
	if got := <-notes; !strings.HasPrefix(got, "agent session is up, guest kernel ") {
		t.Errorf("the log is told %q", got)
	}
	g.Break()
	if got := <-notes; got != "agent session has broken and is made anew" {
		t.Errorf("after a break the log is told %q", got)
	}
}

func TestShutdown(t *testing.T) {
	g, s := start(t)
	if err := s.Shutdown(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	<-g.ShutDown()
	requireKind(t, s.Shutdown(t.Context(), -time.Second), errdefs.Invalid, guestproto.CodeBadRequest)
}

func TestErrorNumbers(t *testing.T) {
	s := &Session{id: "m1", ctx: t.Context()}
	for _, c := range []struct {
		errno syscall.Errno
		kind  errdefs.Kind
		code  string
	}{
		{syscall.ENOENT, errdefs.NotFound, "FILE_NOT_FOUND"},
		{syscall.EEXIST, errdefs.Conflict, "FILE_EXISTS"},
		{syscall.ENOTEMPTY, errdefs.Conflict, "FILE_DIRECTORY_NOT_EMPTY"},
		{syscall.EACCES, errdefs.Forbidden, "FILE_PERMISSION"},
		{syscall.EPERM, errdefs.Forbidden, "FILE_PERMISSION"},
		{syscall.EROFS, errdefs.Forbidden, "FILE_SYSTEM_READ_ONLY"},
		{syscall.EISDIR, errdefs.Invalid, "FILE_IS_A_DIRECTORY"},
		{syscall.ENOTDIR, errdefs.Invalid, "FILE_NOT_A_DIRECTORY"},
		{syscall.EINVAL, errdefs.Invalid, "FILE_INVALID"},
		{syscall.ENAMETOOLONG, errdefs.Invalid, "FILE_NAME_TOO_LONG"},
		{syscall.ELOOP, errdefs.Invalid, "FILE_TOO_MANY_LINKS"},
		{syscall.ENOSPC, errdefs.Exhausted, "GUEST_NO_SPACE"},
		{syscall.EDQUOT, errdefs.Exhausted, "GUEST_NO_SPACE"},
		{syscall.ENOMEM, errdefs.Exhausted, "GUEST_RESOURCES"},
		{syscall.EIO, errdefs.Guest, "GUEST_IO_ERROR"},
		{syscall.Errno(4000), errdefs.Guest, guestproto.CodeGuest},
	} {
		err := s.public("open", &guestproto.Error{Kind: guestproto.KindGuest, Code: guestproto.CodeGuest, Errno: int(c.errno), Message: "m"})
		requireKind(t, err, c.kind, c.code)
	}
	// A code of the guest's own wins, a code that is none does not.
	requireKind(t, s.public("x", &guestproto.Error{Kind: guestproto.KindInvalid, Code: guestproto.CodeNoWorkDir, Errno: 2}), errdefs.Invalid, guestproto.CodeNoWorkDir)
	requireKind(t, s.public("x", &guestproto.Error{Kind: "unauthorized", Code: "<b>"}), errdefs.Guest, guestproto.CodeGuest)
	if s.public("x", nil) != nil {
		t.Error("public of nil")
	}
}

// A caller who has gone before the command was asked for harms no other command
// that has its id.
func TestExecOfACallerWhoHasGone(t *testing.T) {
	_, s := start(t)
	p := mustExec(t, s, machine.ExecRequest{ID: "a", Argv: []string{"cat"}, Stdin: true})
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.Exec(gone, machine.ExecRequest{ID: "a", Argv: []string{"true"}})
	requireKind(t, err, errdefs.Unavailable, guestproto.CodeCanceled)
	ctx, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	_, err = p.Wait(ctx)
	requireKind(t, err, errdefs.Timeout, "GUEST_TIMEOUT") // it runs on
}
