package command_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
)

// follow takes over all of c's output.
func (h *harness) follow(c *command.Command, lost func()) *command.Turn {
	h.t.Helper()
	turn, err := c.Follow(h.t.Context(), 0, 0, lost)
	if err != nil {
		h.t.Fatal(err)
	}
	return turn
}

func TestFollowerIsTakenOver(t *testing.T) {
	h := newEngine(t)
	c := h.start(h.request("true"))
	lost := make(chan struct{})
	first := h.follow(c, func() { close(lost) })
	second := h.follow(c, func() { t.Error("the second lost its turn") })
	<-lost
	first.Leave()
	second.Leave()
	h.follow(c, func() {}).Leave()
	h.ended(c)
}

// A stream of an earlier session may be slow: it takes nothing away.
func TestStreamThatIsOverTakesNothing(t *testing.T) {
	h := newEngine(t)
	c := h.start(h.request("echo", "hello"))
	turn := h.follow(c, func() { t.Error("lost its turn to a stream that is over") })
	defer turn.Leave()
	over, cancel := context.WithCancelCause(t.Context())
	cancel(guestproto.ErrBroken)
	if _, err := c.Follow(over, 0, 0, func() {}); !errors.Is(err, guestproto.ErrBroken) {
		t.Errorf("followed: %v", err)
	}
	h.ended(c)
	buf := make([]byte, 16)
	if n, err := turn.Stdout.Read(t.Context(), buf); string(buf[:n]) != "hello\n" || err != nil {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestStdin(t *testing.T) {
	h := newEngine(t)
	req := h.request("cat")
	req.Stdin = true
	c := h.start(req)
	first := c.Input()
	first.Feed(io.MultiReader(strings.NewReader("one "), brokenReader{}))
	second := c.Input()
	if second.Taken != 4 {
		t.Errorf("taken %d bytes, want 4", second.Taken)
	}
	second.Feed(strings.NewReader("two"))
	if got := read(c.Stdout()); got != "one two" {
		t.Errorf("got %q", got)
	}
	h.ended(c)
	if _, _, status := h.run(h.request("cat")); status.Code != 0 {
		t.Errorf("without input: %+v", status)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, guestproto.ErrBroken }

// However many claims come while one still writes, only the last waits for it.
func TestClaimsDoNotPileUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var in command.Input
		held, first := io.Pipe()
		claims := []*command.InputClaim{in.Claim()}
		go claims[0].Feed(held)
		synctest.Wait() // it is at work
		ended := make(chan struct{}, 100)
		for range cap(ended) + 1 {
			c := in.Claim()
			go func() {
				c.Feed(strings.NewReader(""))
				ended <- struct{}{}
			}()
		}
		synctest.Wait()
		if len(ended) != cap(ended) {
			t.Errorf("%d of %d claims that were taken over have ended", len(ended), cap(ended))
		}
		first.CloseWithError(guestproto.ErrBroken)
		synctest.Wait()
		<-ended
		synctest.Wait()
		if len(ended) != cap(ended) {
			t.Error("the last claim never had its turn")
		}
	})
}
