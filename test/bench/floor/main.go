// Command floor is the trivial init that the benchmarks measure against: it
// says that user space is there and, when the kernel's command line has
// floor=echo, serves raw echoes and fork-and-execs on the virtio-serial port.
// It speaks no protocol, so that what it costs is what the transport and the
// kernel cost.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Requests on the port, one byte each. An echo request is followed by eight
// bytes that come back; a fork request makes one fork, exec and wait of
// the image's /bin/true and answers with eight bytes.
const (
	opEcho = 'e'
	opFork = 'f'
)

func main() {
	fmt.Println("floor: up")
	if err := serve(); err != nil {
		fmt.Println("floor:", err)
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	time.Sleep(time.Hour) // PID 1 must not return while the kernel reboots
}

func serve() error {
	for _, m := range []struct{ fs, dir string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		_ = os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil || !strings.Contains(string(cmdline), "floor=echo") {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	if err := os.Mkdir("/base", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", "/base", "ext4", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the image: %w", err)
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	defer port.Close()
	return answer(port)
}

func loadModules() error {
	list, err := os.Open("/hyperfleet/modules")
	if err != nil {
		return err
	}
	defer list.Close()
	for s := bufio.NewScanner(list); s.Scan(); {
		name := strings.TrimSpace(s.Text())
		if name == "" {
			continue
		}
		f, err := os.Open(filepath.Join("/hyperfleet/lib", name))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	return nil
}

func openPort() (*os.File, error) {
	for range 500 {
		if ports, _ := filepath.Glob("/dev/vport*"); len(ports) > 0 {
			fd, err := unix.Open(ports[0], unix.O_RDWR, 0)
			if err == nil {
				return os.NewFile(uintptr(fd), ports[0]), nil // blocking: no poller
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil, fmt.Errorf("no virtio-serial port")
}

func answer(port *os.File) error {
	buf := make([]byte, 9)
	for {
		if _, err := io.ReadFull(port, buf); err != nil {
			time.Sleep(time.Millisecond) // no host yet: the port reads EOF
			continue
		}
		if buf[0] == opFork {
			if err := forkExec(); err != nil {
				return err
			}
		}
		if _, err := port.Write(buf[1:]); err != nil {
			return err
		}
	}
}

func forkExec() error {
	p, err := os.StartProcess("/base/bin/true", []string{"true"}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
	if err != nil {
		return fmt.Errorf("start true: %w", err)
	}
	_, err = p.Wait()
	return err
}
