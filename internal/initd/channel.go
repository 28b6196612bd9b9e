package initd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// portsDir lists the virtio-serial ports, each with the name that the host gave.
const portsDir = "/sys/class/virtio-ports"

// deviceWait is how long a device may take to appear after its module was
// loaded, and devicePoll how often one looks. Nothing tells: there is no udev,
// and a uevent socket costs more than it saves.
const (
	deviceWait = 10 * time.Second
	devicePoll = 2 * time.Millisecond
)

// dial opens the agent's channel.
func (ep endpoint) dial(ctx context.Context) (io.ReadWriteCloser, error) {
	if ep.serial != "" {
		return openSerial(ctx, ep.serial)
	}
	return dialVsock(ctx, ep.vsock)
}

func openSerial(ctx context.Context, name string) (io.ReadWriteCloser, error) {
	var device string
	err := await(ctx, func() (err error) {
		device, err = findPort(portsDir, name)
		return err
	})
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK puts it under Go's poller: Close ends a blocked Read.
	return os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
}

// usualPort is the device of the agent's port on the machines of our drivers: the
// first after the one for a console, on the first virtio-serial device.
const usualPort = "vport0p1"

// findPort returns the device of the port with the name.
func findPort(dir, name string) (string, error) {
	if isPort(dir, usualPort, name) { // to list a folder is code that a boot needs for nothing else
		return "/dev/" + usualPort, nil
	}
	ports, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	for _, p := range ports {
		if isPort(dir, p.Name(), name) {
			return "/dev/" + p.Name(), nil
		}
	}
	return "", fmt.Errorf("virtio-serial port %q: %w", name, fs.ErrNotExist)
}

func isPort(dir, port, name string) bool {
	b, err := os.ReadFile(filepath.Join(dir, port, "name"))
	return err == nil && strings.TrimSpace(string(b)) == name
}

// await calls f until what it looks for exists, for deviceWait at most.
func await(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	for {
		err := f()
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENXIO) {
			return err
		}
		select {
		case <-time.After(devicePoll):
		case <-ctx.Done():
			return err
		}
	}
}

func dialVsock(ctx context.Context, port uint32) (io.ReadWriteCloser, error) {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("vsock: %w", err)
	}
	f := os.NewFile(uintptr(fd), "vsock")
	err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: port})
	if errors.Is(err, unix.EINPROGRESS) {
		err = connected(ctx, f)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("connect to vsock port %d of the host: %w", port, err)
	}
	return f, nil
}

// connected waits for the end of a connect(2) that was under way.
func connected(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var errno int
	var gerr error
	err = raw.Write(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, perr := unix.Poll(poll, 0); perr == nil && n == 0 {
			return false
		}
		errno, gerr = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		return true
	})
	switch {
	case err != nil:
		return err
	case gerr != nil:
		return gerr
	case errno != 0:
		return unix.Errno(errno)
	}
	return nil
}
