package guestproto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type word struct {
	Word string `json:"word"`
}

func TestRequestAndResult(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		var req word
		if err := s.Request(&req); err != nil {
			t.Error(err)
		}
		s.End(word{string(s.Method()) + " " + req.Word})
	})
	s := open(t, host, "greet", word{"world"})
	var res word
	if err := s.Result(t.Context(), &res); err != nil || res.Word != "greet world" {
		t.Fatalf("got %q, %v", res.Word, err)
	}
	if err := s.Err(); !errors.Is(err, ErrEnded) {
		t.Fatalf("Err = %v, want ErrEnded", err)
	}
}

func TestRequestOfManyFrames(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		var req word
		if err := s.Request(&req); err != nil {
			s.Fail(err)
			return
		}
		s.End(len(req.Word))
	})
	for _, n := range []int{MaxPayload - 20, MaxPayload, 3*MaxPayload + 1, MaxRequest - 100} {
		var got int
		s := open(t, host, "count", word{string(pattern(n))})
		if err := s.Result(t.Context(), &got); err != nil || got != n {
			t.Fatalf("request of %d bytes arrived as %d, %v", n, got, err)
		}
	}
	if _, err := host.Open(t.Context(), "count", word{string(pattern(MaxRequest))}); err == nil {
		t.Fatal("request above MaxRequest was sent")
	}
}

func TestFailReachesHost(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		s.Writer(Stdout).Write([]byte("half"))
		s.Fail(&Error{KindNotFound, "NO_SUCH", "nothing\nhere \x00", 2})
	})
	s := open(t, host, "x", nil)
	err := s.Result(t.Context(), nil)
	e, ok := errors.AsType[*Error](err)
	if !ok || *e != (Error{KindNotFound, "NO_SUCH", "nothing here  ", 2}) {
		t.Fatalf("got %#v", err)
	}
	b, err := io.ReadAll(s.Reader(Stdout))
	if string(b) != "half" || !errors.Is(err, e) {
		t.Fatalf("data before the failure: %q, %v", b, err)
	}
}

func TestBadRequestIsAnswered(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		var req ExecStart
		s.Fail(s.Request(&req))
	})
	for _, req := range []any{"text", ExecStart{ID: "a b", Argv: []Text{"x"}}, ExecStart{ID: "a"}} {
		err := open(t, host, MethodExecStart, req).Result(t.Context(), nil)
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeBadRequest {
			t.Errorf("request %v: %v", req, err)
		}
	}
}

func TestMessages(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		for i := range MaxMessages {
			s.Send(i)
		}
		var back word
		if err := s.Message(s.Context(), &back); err != nil {
			t.Error(err)
		}
		s.End(back)
	})
	s := open(t, host, "x", nil)
	for want := range MaxMessages {
		var got int
		if err := s.Message(t.Context(), &got); err != nil || got != want {
			t.Fatalf("message %d: %d, %v", want, got, err)
		}
	}
	if err := s.Send(word{"ok"}); err != nil {
		t.Fatal(err)
	}
	var res word
	if err := s.Result(t.Context(), &res); err != nil || res.Word != "ok" {
		t.Fatalf("got %v, %v", res, err)
	}
	if _, err := s.Recv(t.Context()); !errors.Is(err, ErrEnded) {
		t.Fatalf("Recv after the end: %v", err)
	}
}

func TestDataAndHalfClose(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		n, err := io.Copy(s.Writer(Stdout), s.Reader(Stdin)) // ends with the host's half-close
		if err != nil {
			t.Error(err)
		}
		s.Writer(Stdout).Close()
		s.Writer(Stderr).Write([]byte("after"))
		s.End(n)
	})
	s := open(t, host, "cat", nil)
	want := pattern(3 << 20)
	go func() {
		s.Writer(Stdin).Write(want)
		s.Writer(Stdin).Close()
	}()
	got, err := io.ReadAll(s.Reader(Stdout))
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(want), err)
	}
	if b, err := io.ReadAll(s.Reader(Stderr)); string(b) != "after" || err != nil {
		t.Fatalf("stderr %q, %v", b, err)
	}
	if _, err := s.Writer(Stdin).Write([]byte("x")); err == nil {
		t.Fatal("write after Close was accepted")
	}
}

func TestChannelDirections(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) { <-s.Done() })
	s := open(t, host, "x", nil)
	if _, err := s.Writer(Stdout).Write([]byte("x")); err == nil {
		t.Error("host wrote on stdout")
	}
	if _, err := s.Reader(Stdin).Read(make([]byte, 1)); err == nil {
		t.Error("host read stdin")
	}
	if err := s.End(nil); err == nil {
		t.Error("host ended a stream")
	}
}

// A reader that does not read stops its own sender, at the window, and nobody
// else.
func TestStalledReaderBlocksOnlyItsSender(t *testing.T) {
	host, guest := session(t)
	var sent atomic.Int64
	serve(t, guest, func(s *Stream) {
		if s.Method() == "ping" {
			s.End(nil)
			return
		}
		for {
			n, err := s.Writer(Stdout).Write(make([]byte, 1000))
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	})
	stalled := open(t, host, "flood", nil)
	for range 200 {
		if err := open(t, host, "ping", nil).Result(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	await(t, func() bool { return sent.Load() >= InitialWindow-1000 })
	if n := sent.Load(); n > InitialWindow {
		t.Fatalf("sender got %d bytes out to a reader that never read", n)
	}
	// Once it reads, the window is larger, and still a limit. Credit comes once
	// half of it is left, and sent lacks what a write that waits got out.
	io.CopyN(io.Discard, stalled.Reader(Stdout), 1<<20)
	await(t, func() bool { return sent.Load() > 1<<20+Window/2-1000 })
	if n := sent.Load(); n > 1<<20+Window {
		t.Fatalf("sender is %d bytes ahead", n-1<<20)
	}
}

// await waits for cond by yielding; the test's own timeout is the limit.
func await(tb testing.TB, cond func() bool) {
	tb.Helper()
	for !cond() {
		select {
		case <-tb.Context().Done():
			tb.Fatal("never became true")
		case <-time.After(time.Millisecond):
		}
	}
}

func TestConcurrentStreams(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) {
		io.Copy(s.Writer(Stdout), s.Reader(Stdin))
		s.End(nil)
	})
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			s, err := host.Open(t.Context(), "cat", nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			want := fmt.Appendf(pattern(i*100), "-%d", i)
			go func() {
				s.Writer(Stdin).Write(want)
				s.Writer(Stdin).Close()
			}()
			got, err := io.ReadAll(s.Reader(Stdout))
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("stream %d: %d of %d bytes, %v", i, len(got), len(want), err)
			}
		})
	}
	wg.Wait()
	idle(t, host)
	idle(t, guest)
}

// idle checks that a session without streams holds nothing for them.
func idle(t *testing.T, c *Conn) {
	t.Helper()
	growth := guestGrowth
	if c.host {
		growth = hostGrowth
	}
	await(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.places == 0 && len(c.streams) == 0 && c.held == 0 && c.growth == growth
	})
}

func TestHostCloseResetsGuest(t *testing.T) {
	host, guest := session(t)
	reset := make(chan error, 1)
	serve(t, guest, func(s *Stream) {
		<-s.Context().Done()
		reset <- context.Cause(s.Context())
	})
	open(t, host, "wait", nil).Close()
	e, ok := errors.AsType[*Error](<-reset)
	if !ok || e.Code != CodeCanceled {
		t.Fatalf("guest saw %v", e)
	}
	idle(t, host)
	idle(t, guest)
}

func TestBreakEndsAllWaits(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) { <-s.Done() })
	s := open(t, host, "x", nil)
	ended := make(chan error, 5)
	go func() { ended <- s.Result(context.Background(), nil) }()
	go func() { _, err := s.Recv(context.Background()); ended <- err }()
	go func() { _, err := s.Reader(Stdout).Read(make([]byte, 1)); ended <- err }()
	go func() { _, err := s.Writer(Stdin).Write(make([]byte, 1<<20)); ended <- err }()
	go func() { _, err := guest.Accept(context.Background()); ended <- err }()
	guest.Close()
	for range 5 {
		if err := <-ended; !errors.Is(err, ErrBroken) {
			t.Errorf("wait ended with %v", err)
		}
	}
	if err := guest.Err(); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrBroken) {
		t.Errorf("guest: %v", err)
	}
	<-host.Done()
	if _, err := host.Open(t.Context(), "x", nil); !errors.Is(err, ErrBroken) {
		t.Errorf("open on a broken session: %v", err)
	}
}

func TestTooManyStreamsAreRefused(t *testing.T) {
	host, guest := session(t)
	serve(t, guest, func(s *Stream) { <-s.Done() })
	for range MaxStreams {
		open(t, host, "x", nil)
	}
	_, err := host.Open(t.Context(), "x", nil)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeRefused {
		t.Fatalf("got %v", err)
	}
}
