// Command standin stands in for a kernel whose drivers are built in: it is the
// init of an initramfs that loads the modules, mounts the first disk and makes
// it the root, as such a kernel does, and becomes the /init that is there. Only
// the test of direct boots uses it.
//
// With standin.term on the kernel's command line a process of the root file
// system tells init to end once that is up.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diskWait is how long the disk may take to appear.
const diskWait = 20 * time.Second

// term waits for init to have mounted /proc, writes to the disk, and gives
// init's signal handler time to be there.
const term = "until test -e /proc/1/status; do sleep 0.1; done; echo written >/root/proof; sleep 2; kill -TERM 1"

func main() {
	fmt.Println("standin:", run()) // it returns only when something is wrong
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("standin: reboot:", err)
	}
}

func run() error {
	if err := loadModules(); err != nil {
		return err
	}
	if err := os.MkdirAll("/root", 0o700); err != nil {
		return err
	}
	withTerm, err := asked("standin.term")
	if err != nil {
		return err
	}
	if err := mountDisk(); err != nil {
		return err
	}
	if err := switchRoot(); err != nil {
		return err
	}
	if withTerm {
		streams := []*os.File{os.Stdin, os.Stdout, os.Stderr}
		attr := &os.ProcAttr{Env: []string{"PATH=/bin"}, Files: streams}
		if _, err := os.StartProcess("/bin/sh", []string{"sh", "-c", term}, attr); err != nil {
			return err
		}
	}
	return fmt.Errorf("exec /init: %w", unix.Exec("/init", []string{"/init"}, []string{"HOME=/", "TERM=linux"}))
}

func loadModules() error {
	list, err := os.Open("/hyperfleet/modules")
	if err != nil {
		return err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if lines.Text() == "" {
			continue
		}
		if err := load("/hyperfleet/lib/" + lines.Text()); err != nil {
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
	}
	return lines.Err()
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// asked looks for a word on the kernel's command line, and leaves no /proc.
func asked(word string) (bool, error) {
	if err := os.MkdirAll("/proc", 0o555); err != nil {
		return false, err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return false, err
	}
	line, err := os.ReadFile("/proc/cmdline")
	return strings.Contains(string(line), word), errors.Join(err, unix.Unmount("/proc", 0))
}

func mountDisk() error {
	if err := unix.Mount("dev", "/dev", "devtmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /dev: %w", err)
	}
	for end := time.Now().Add(diskWait); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Mount("/dev/vda", "/root", "ext4", 0, "")
		if err == nil || time.Now().After(end) {
			return errors.Join(err, unix.Unmount("/dev", unix.MNT_DETACH))
		}
	}
}

// switchRoot does what prepare_namespace of the kernel (init/do_mounts.c) does.
func switchRoot() error {
	if err := unix.Chdir("/root"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	// The kernel opens a console for init, and mounts /dev where it is asked to.
	return unix.Chdir("/")
}
