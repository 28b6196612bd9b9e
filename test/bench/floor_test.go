//go:build vm

package bench

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const floorInit = "github.com/hyperfleet/hyperfleet/test/bench/floor"

// floorBoot is the product's kernel and initramfs with the trivial init.
func floorBoot(b *testing.B) machine.BootFiles {
	b.Helper()
	files, err := kerneltest.Make(b.Context(), floorInit)
	if err != nil {
		b.Fatal(err)
	}
	return files
}

// floorVM is a bare QEMU with the trivial init.
type floorVM struct {
	cmd  *exec.Cmd
	sock string
	up   time.Duration // from the start of the process to "floor: up"
}

// startFloor boots bare QEMU, with the machine type, CPU, sizes and kernel
// parameters that the product's driver uses for the guest of options, and waits
// for the init's first line.
func startFloor(b *testing.B, files machine.BootFiles, tscKHz string, extra ...string) *floorVM {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "hf-floor-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	f := &floorVM{sock: filepath.Join(dir, "port")}
	args := []string{
		"-M", "microvm,acpi=on,usb=off,accel=tcg", "-cpu", "max,erms=off", "-smp", "1", "-m", "128M",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", files.KernelPath, "-initrd", files.InitrdPath,
		"-append", "console=ttyS0 quiet cryptomgr.notests reboot=t panic=-1 tsc=reliable " + tscKHz + " floor=echo",
		"-device", "virtio-serial-device",
		"-chardev", "socket,id=port,server=on,wait=off,path=" + f.sock,
		"-device", "virtserialport,chardev=port,name=floor",
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", append(args, extra...)...)
	out, err := f.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := f.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		_ = f.cmd.Wait()
	})
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "floor: up") {
			f.up = time.Since(start)
			go func() { _, _ = io.Copy(io.Discard, out) }()
			return f
		}
	}
	b.Fatal("the floor's guest ended before it was up")
	return nil
}

func (f *floorVM) stop() {
	_ = f.cmd.Process.Kill()
}

// port connects to the guest's serial port.
func (f *floorVM) port(b *testing.B) net.Conn {
	b.Helper()
	conn, err := (&net.Dialer{}).DialContext(b.Context(), "unix", f.sock)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return conn
}

// ask sends one request of the floor's init and returns how long it took.
func ask(conn net.Conn, op byte) (time.Duration, error) {
	var msg [9]byte
	msg[0] = op
	copy(msg[1:], "12345678")
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := conn.Write(msg[:]); err != nil {
		return 0, err
	}
	var back [8]byte
	if _, err := io.ReadFull(conn, back[:]); err != nil {
		return 0, err
	}
	took := time.Since(start)
	if string(back[:]) != "12345678" {
		return 0, errors.New("the echo gave other bytes")
	}
	return took, nil
}

// tscOf returns the frequency hint that the product gave a guest, so that the
// floor's guest gets the same.
func tscOf(cmdline string) string {
	for field := range strings.FieldsSeq(cmdline) {
		if strings.HasPrefix(field, "tsc_early_khz=") {
			return field
		}
	}
	return ""
}

func note(b *testing.B, format string, args ...any) { b.Helper(); b.Logf(format, args...) }
