// Command floorinit is the smallest useful init of a guest: it loads the
// modules of its initramfs, says on the console how long each took, and ends
// the guest. Boots are measured against it. With floor_bare on the kernel's
// command line it loads nothing.
package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Up is the line that a guest with this init prints.
const Up = "floor: up"

func main() {
	if err := load(); err != nil {
		fmt.Println("floor:", err)
	}
	fmt.Println(Up)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Println("floor: reboot:", err)
	}
}

func load() error {
	if bare() {
		return nil
	}
	f, err := os.Open("/hyperfleet/modules")
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if lines.Text() == "" {
			continue // what follows could be loaded later
		}
		start := time.Now()
		if err := loadModule("/hyperfleet/lib/" + lines.Text()); err != nil {
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
		fmt.Printf("floor: loaded %s %d us\n", lines.Text(), time.Since(start).Microseconds())
	}
	return nil
}

func loadModule(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// bare tells whether the kernel's command line has floor_bare: what the kernel
// does not know itself becomes an argument of init, unless it has a dot.
func bare() bool { return slices.Contains(os.Args, "floor_bare") }
