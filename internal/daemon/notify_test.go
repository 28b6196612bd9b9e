package daemon

import (
	"context"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
)

// Readiness is told when the API answers, and the end when it begins.
func TestServiceManagerHears(t *testing.T) {
	cfg := settings(t)
	cfg.NotifySocket, cfg.WatchdogUSec = filepath.Join(t.TempDir(), "notify"), 20_000
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: cfg.NotifySocket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	next := func() string {
		buf := make([]byte, 4096)
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	d := newDaemon(t, cfg)
	if err := d.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.serveNotifying(ctx) }()
	if got := next(); !strings.HasPrefix(got, "READY=1\nSTATUS=serving /") {
		t.Errorf("first word %q", got)
	}
	c := &hyperfleet.Client{Host: "unix://" + cfg.Socket()}
	if _, err := c.Health(t.Context()); err != nil {
		t.Errorf("ready, and yet: %v", err)
	}
	c.CloseIdleConnections()
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("a daemon that is well says %q", got)
	}
	cancel()
	got := next()
	for got == "WATCHDOG=1" {
		got = next()
	}
	if got != "STOPPING=1" {
		t.Errorf("a daemon that ends says %q", got)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestSocketGroup(t *testing.T) {
	cfg := settings(t)
	type row struct{ group, says string }
	rows := []row{{"no-such-group", `HYPERFLEET_SOCKET_GROUP="no-such-group"`}, {strconv.Itoa(os.Getegid()), ""}}
	if os.Geteuid() == 0 { // others cannot give a file to a group that is not their own
		rows = append(rows, row{"daemon", ""}, row{"4711", ""})
	}
	for _, c := range rows {
		cfg.SocketGroup = c.group
		d := newDaemon(t, cfg)
		err := d.Listen(t.Context())
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("group %s: %v", c.group, err)
		}
		if err == nil {
			want := c.group
			if g, err := user.LookupGroup(c.group); err == nil {
				want = g.Gid
			}
			info, err := os.Stat(cfg.Socket())
			if err != nil {
				t.Fatal(err)
			}
			if gid := info.Sys().(*syscall.Stat_t).Gid; strconv.Itoa(int(gid)) != want || info.Mode().Perm() != 0o660 {
				t.Errorf("group %s: the socket has gid %d and mode %v", c.group, gid, info.Mode())
			}
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
