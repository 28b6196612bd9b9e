package hyperfleet

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A command that nobody was asked to run is not attached to: the caller hears
// at once that there is no daemon.
func TestExecStreamWithoutDaemon(t *testing.T) {
	c := &Client{Host: "unix://" + t.TempDir() + "/none.sock"}
	ctx, cancel := context.WithTimeout(t.Context(), reattachFor/4)
	defer cancel()
	_, err := c.ExecStream(ctx, "m", ExecRequest{Command: []string{"true"}}, ExecIO{})
	if !errors.Is(err, ErrNoDaemon) || ctx.Err() != nil {
		t.Errorf("%v, %v", err, ctx.Err())
	}
}

// A server that reads nothing does not outlive the caller's context.
func TestExecStreamCancelAgainstDeafServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+ExecProtocol+"\r\n\r\n")
			_ = WriteFrame(conn, FrameStarted, []byte(`{"exec_id":"x"}`))
		}
		accepted <- conn
	}()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	signals := make(chan string)
	go func() {
		_, err := (&Client{Host: "http://" + l.Addr().String()}).ExecStream(ctx, "m", ExecRequest{Command: []string{"cat"}}, ExecIO{Signals: signals})
		done <- err
	}()
	conn := <-accepted
	defer conn.Close()
	full := strings.Repeat("X", MaxFramePayload)
	for stuck := false; !stuck; {
		select {
		case signals <- full:
		case <-time.After(200 * time.Millisecond): // both sockets' buffers are full
			stuck = true
		}
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(20 * farewell):
		t.Fatal("the call goes on")
	}
}

// A server that acknowledges input which it was not sent ends the input, and
// nothing else.
func TestStdinWindowWithLyingServer(t *testing.T) {
	w := newStdinWindow()
	w.buf = make([]byte, 2*stdinKeep)
	w.ack(2 * stdinKeep)
	if chunk, eof := w.next(0, make(chan struct{})); chunk != nil || eof {
		t.Errorf("%d bytes, %v", len(chunk), eof)
	}
}
