package daemon

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings is a configuration with folders and a port of the test's own. No
// machine is started with it: that is for the vm tier.
func settings(t *testing.T) config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hf-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg, err := config.Parse(map[string]string{
		"HYPERFLEET_STATE_DIR": dir + "/state", "HYPERFLEET_RUN_DIR": dir + "/run",
		"PORT": strconv.Itoa(l.Addr().(*net.TCPAddr).Port), "HYPERFLEET_UID_BASE": "0",
	})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func newDaemon(t *testing.T, cfg config.Config) *Daemon {
	t.Helper()
	d, err := New(t.Context(), cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestServe(t *testing.T) {
	cfg := settings(t)
	// A dead daemon's socket is in the way.
	if err := os.MkdirAll(cfg.RunDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Socket(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t, cfg)
	if err := d.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- d.Serve(ctx) }()
	for _, host := range []string{"unix://" + cfg.Socket(), "http://" + cfg.LoopbackAddress()} {
		c := &hyperfleet.Client{Host: host}
		if h, err := c.Health(t.Context()); err != nil || h.Status != "ok" {
			t.Errorf("%s: %+v, %v", host, h, err)
		}
		if v, err := c.Version(t.Context()); err != nil || v.Runtime != "qemu" {
			t.Errorf("%s: %+v, %v", host, v, err)
		}
		_, err := c.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{
			Name: "x", VCPUCount: 1, MemSizeMiB: 64, Image: "a", Network: &hyperfleet.NetworkRequest{Enable: true},
		})
		want := hyperfleet.ErrUnsupported // a network that cannot be guarded
		if strings.HasPrefix(host, "http://") {
			want = hyperfleet.ErrUnauthorized
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: create: %v, want %v", host, err, want)
		}
		c.CloseIdleConnections()
	}
	if info, err := os.Stat(cfg.Socket()); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v", info, err)
	}
	if _, err := New(t.Context(), cfg, d.log); err == nil || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("second daemon: %v", err)
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cfg.Socket()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	again := newDaemon(t, cfg)
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// Run tells of variables that do nothing before anything else, and of all wrong
// ones at once.
func TestRunTellsOfItsConfiguration(t *testing.T) {
	cfg := settings(t)
	t.Setenv("HYPERFLEET_STATE_DIR", cfg.StateDir)
	t.Setenv("HYPERFLEET_RUN_DIR", cfg.RunDir)
	t.Setenv("HYPERFLEET_UID_BASE", "0")
	t.Setenv("HYPERFLEET_SOCKET_DIR", "/tmp")
	t.Setenv("PROXY_PORT", "4001")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log lines
	log.on("ready", cancel)
	if err := Run(ctx, ServeRequest{Set: map[string]string{"PORT": strconv.Itoa(int(cfg.Port))}}, &log); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"HYPERFLEET_SOCKET_DIR has no effect", "there is no reverse proxy yet", "variables=[PROXY_PORT]"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("the log tells %q not once:\n%s", want, log.String())
		}
	}
	err := Run(ctx, ServeRequest{Set: map[string]string{"PORT": "x", "PROXY_PORT": "0"}}, &log)
	if err == nil || !strings.Contains(err.Error(), "PORT=\"x\"") || !strings.Contains(err.Error(), "PROXY_PORT must be") {
		t.Errorf("wrong values: %v", err)
	}
}

// lines is a log that does something when a word appears in it.
type lines struct {
	strings.Builder
	word string
	then func()
}

func (l *lines) on(word string, then func()) { l.word, l.then = word, then }

func (l *lines) Write(p []byte) (int, error) {
	if strings.Contains(string(p), l.word) {
		l.then()
	}
	return l.Builder.Write(p)
}

// A port that is taken ends the daemon, with its locks and sockets.
func TestPortInUse(t *testing.T) {
	cfg := settings(t)
	l, err := net.Listen("tcp", cfg.LoopbackAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := newDaemon(t, cfg)
	if err := d.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "PORT") {
		t.Errorf("listen: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(cfg.Socket()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// Each part that cannot be built leaves nothing of those before it.
func TestNewThatFails(t *testing.T) {
	for name, spoil := range map[string]func(*config.Config){
		"state": func(c *config.Config) { c.StateDir = "/proc/nothing" },
		"run":   func(c *config.Config) { c.RunDir = "/proc/nothing" },
		"database": func(c *config.Config) {
			c.Database = c.StateDir + "/dir.db"
			if err := os.MkdirAll(c.Database, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"images": func(c *config.Config) { c.ImageDir = "/proc/nothing" },
	} {
		t.Run(name, func(t *testing.T) {
			good := settings(t)
			bad := good
			spoil(&bad)
			if d, err := New(t.Context(), bad, slog.New(slog.DiscardHandler)); err == nil {
				d.Close()
				t.Fatal("no error")
			}
			d := newDaemon(t, good) // its locks are free
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A database in a folder of others leaves that folder as it is.
func TestDatabaseFolderIsNotOurs(t *testing.T) {
	cfg := settings(t)
	shared := t.TempDir()
	if err := os.Chmod(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.Database = shared + "/fleet.db"
	d := newDaemon(t, cfg)
	defer d.Close()
	if info, err := os.Stat(shared); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("folder %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(cfg.Database); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("database %v, %v", info.Mode(), err)
	}
}
