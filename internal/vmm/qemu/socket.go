package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// The sockets in a run directory, which QEMU listens on and serves one client
// at a time.
const (
	agentSocket   = "agent.sock"
	consoleSocket = "console.sock"
	monitorSocket = "monitor.sock"
)

// listen makes a socket in dir that only our own user can connect to, and
// returns it as a file for a child to inherit.
func listen(dir, name string) (*os.File, error) {
	var f *os.File
	err := inDir(dir, func(short string) error {
		addr := &net.UnixAddr{Net: "unix", Name: filepath.Join(short, name)}
		ln, err := net.ListenUnix("unix", addr)
		if err != nil {
			return err
		}
		ln.SetUnlinkOnClose(false)
		defer ln.Close()
		if err := os.Chmod(addr.Name, 0o600); err != nil {
			return errors.Join(err, os.Remove(addr.Name))
		}
		f, err = ln.File()
		if err != nil {
			return errors.Join(err, os.Remove(addr.Name))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	return f, nil
}

// dial connects to a socket in dir. While QEMU serves another client few more
// can wait; until there is room dial tries again.
func dial(ctx context.Context, dir, name string) (net.Conn, error) {
	var conn net.Conn
	err := inDir(dir, func(short string) error {
		for {
			var err error
			conn, err = (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(short, name))
			if !errors.Is(err, unix.EAGAIN) {
				return err
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", name, err)
	}
	return conn, nil
}

// inDir calls f with a short name of dir: a socket's address holds 108 bytes
// (unix(7)), and run directories can be deep.
func inDir(dir string, f func(short string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	return f(fmt.Sprintf("/proc/self/fd/%d", fd))
}
