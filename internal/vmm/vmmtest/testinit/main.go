// Command testinit is PID 1 of the guests that the drivers' conformance suite
// boots. It serves one line-based protocol on the agent port, so that the suite
// can see and do what a guest sees and does. It is no agent: package initd is.
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

const portName = "hyperfleet.agent"

func main() {
	fmt.Printf("testinit: fatal error: %v\n", run())
	// An init that returns panics the kernel, which ends the VMM.
}

// run returns only when it fails.
func run() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"},
	} {
		os.MkdirAll(m.dir, 0o755)
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := openConsole(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	port, err := openPort()
	if err != nil {
		return err
	}
	fmt.Println("testinit: ready")
	return serve(port)
}

// openConsole makes the console our output: an initramfs need not hold it when
// the kernel starts us.
func openConsole() error {
	f, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	for fd := range 3 {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("open console: %w", err)
		}
	}
	return nil
}

// loadModules loads what the initramfs lists, in its order.
func loadModules() error {
	list, err := os.ReadFile("/hyperfleet/modules")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		if !filepath.IsAbs(name) {
			name = filepath.Join("/hyperfleet/lib", name)
		}
		f, err := os.Open(name)
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

// openPort waits for the virtio-serial port of the agent.
func openPort() (*os.File, error) {
	for {
		names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(b)) == portName {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(name)), os.O_RDWR, 0)
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// serve answers requests; while no host is connected the port reads EOF.
func serve(port *os.File) error {
	r := bufio.NewReader(port)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			time.Sleep(10 * time.Millisecond)
			continue
		} else if err != nil {
			return fmt.Errorf("read port: %w", err)
		}
		verb, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		if verb == "echo" {
			if err := echo(port, r, rest); err != nil {
				return err
			}
			continue
		}
		answer, err := answer(verb, strings.Fields(rest))
		if err != nil {
			answer = "error " + err.Error()
		}
		if _, err := fmt.Fprintf(port, "%s\n", strings.ReplaceAll(answer, "\n", " ")); err != nil {
			return fmt.Errorf("write port: %w", err)
		}
	}
}

// echo sends the next n bytes back.
func echo(port io.Writer, r io.Reader, n string) error {
	var size int64
	if _, err := fmt.Sscan(n, &size); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(port, "ok %d\n", size); err != nil {
		return err
	}
	_, err := io.CopyN(port, r, size)
	return err
}
