package systemd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// manager listens as systemd does.
func manager(t *testing.T, name string) (Notifier, func() string) {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return Notifier{Socket: name}, func() string {
		t.Helper()
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
}

func TestNotifierTells(t *testing.T) {
	for _, name := range []string{filepath.Join(t.TempDir(), "notify"), "@hyperfleet-notify-test"} {
		n, next := manager(t, name)
		for _, c := range []struct {
			send func() error
			want string
		}{
			{func() error { return n.Ready(t.Context(), "2 machines\nSTOPPING=1") }, "READY=1\nSTATUS=2 machines"},
			{func() error { return n.Alive(t.Context()) }, "WATCHDOG=1"},
			{func() error { return n.Stopping(t.Context()) }, "STOPPING=1"},
		} {
			if err := c.send(); err != nil {
				t.Fatal(err)
			}
			if got := next(); got != c.want {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		}
	}
}

func TestNotifierWithoutManager(t *testing.T) {
	if err := (Notifier{}).Ready(t.Context(), "x"); err != nil {
		t.Errorf("no service manager: %v", err)
	}
	n := Notifier{Socket: filepath.Join(t.TempDir(), "none")}
	if err := n.Alive(t.Context()); err == nil {
		t.Error("a socket that is not there")
	}
	n.Watch(t.Context(), 0, nil, nil) // returns: there is no watchdog
}

// The watchdog is reset only while the daemon is well.
func TestWatchOfIllDaemon(t *testing.T) {
	n, next := manager(t, filepath.Join(t.TempDir(), "notify"))
	ctx, cancel := context.WithCancel(t.Context())
	ill := errors.New("ill")
	health := make(chan error, 2)
	health <- ill
	health <- nil
	reported := make(chan error, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.Watch(ctx, 20*time.Millisecond, func(ctx context.Context) error {
			select {
			case err := <-health:
				return err
			case <-ctx.Done(): // it hangs from now on
				return ctx.Err()
			}
		}, func(err error) {
			select {
			case reported <- err:
			default:
			}
		})
	}()
	if err := <-reported; !errors.Is(err, ill) {
		t.Errorf("reported %v", err)
	}
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("told %q", got)
	}
	if err := <-reported; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a hanging daemon: %v", err)
	}
	cancel()
	<-ended
}
