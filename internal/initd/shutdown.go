package initd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// signalGrace is the grace when init itself was told to end by a signal.
	signalGrace = 2 * time.Second
	// killWait bounds the wait for killed processes: one that hangs in the
	// kernel never ends. It leaves the file systems most of what the host waits
	// beyond the grace (7 s, exitWait of internal/machine).
	killWait = 2 * time.Second
)

// shutdown ends every process, then makes the file systems safe: unmounted, or
// read-only where something keeps them busy. Nothing runs but init afterwards.
func (s *system) shutdown(grace time.Duration) error {
	if s.engine != nil {
		s.engine.Close()
	}
	// What has been written goes to the disk while processes use their grace:
	// little is left to do after it.
	var early sync.WaitGroup
	early.Go(unix.Sync)
	if s.chores != nil {
		early.Go(s.chores.stop)
	}
	s.endProcesses(grace)
	early.Wait()
	if groups := s.groups.Load(); groups != nil {
		groups.Close()
	}
	unix.Sync()
	return s.unmountAll()
}

func (s *system) endProcesses(grace time.Duration) {
	for _, kill := range []struct {
		sig  unix.Signal
		wait time.Duration
	}{{unix.SIGTERM, grace}, {unix.SIGKILL, killWait}} {
		// -1 is every process but init itself (kill(2)).
		if err := unix.Kill(-1, kill.sig); errors.Is(err, unix.ESRCH) {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), kill.wait)
		err := s.reaper.WaitIdle(ctx)
		cancel()
		if err == nil {
			return
		}
	}
	s.log.Printf("shut down: processes are left that cannot be killed")
}

// inMemory are file systems that hold nothing to save.
var inMemory = []string{"proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "cgroup2", "mqueue", "rootfs", "ramfs"}

// unmountAll goes through the mounts from the last one back. The root itself
// cannot be unmounted as long as it is init's: with an initramfs init goes back
// there first.
func (s *system) unmountAll() error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(parseMounts(string(table))) {
		if m.at != "/" && !slices.Contains(inMemory, m.fs) {
			errs = append(errs, release(m.at))
		}
	}
	if s.first < 0 {
		return errors.Join(append(errs, remountReadOnly("/"))...)
	}
	if err := s.leaveRoot(); err != nil {
		return errors.Join(append(errs, err, remountReadOnly("/"))...)
	}
	for _, dir := range []string{diskDir, baseDir} {
		errs = append(errs, release(dir))
	}
	return errors.Join(errs...)
}

// leaveRoot takes the root away with everything on it and goes back to the
// initramfs.
func (s *system) leaveRoot() error {
	if err := unix.Unmount("/", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount /: %w", err)
	}
	if err := unix.Fchdir(s.first); err != nil {
		return err
	}
	return unix.Chroot(".")
}

// release unmounts, or makes read-only what is busy. What is not mounted is fine.
func release(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.EBUSY):
		return remountReadOnly(dir)
	case err != nil:
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func remountReadOnly(dir string) error {
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", dir, err)
	}
	return nil
}

// mounted is one line of mountinfo.
type mounted struct{ at, fs string }

// parseMounts reads /proc/PID/mountinfo (proc(5)): the mount point is field 5,
// the type comes after " - ".
func parseMounts(table string) []mounted {
	var out []mounted
	for line := range strings.Lines(table) {
		head, tail, ok := strings.Cut(line, " - ")
		fields, kind := strings.Fields(head), strings.Fields(tail)
		if ok && len(fields) > 4 && len(kind) > 0 {
			out = append(out, mounted{unescape(fields[4]), kind[0]})
		}
	}
	return out
}

// unescape undoes the octal escapes of blanks and backslashes in mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// restart ends the machine: on x86 a reboot is what ends Firecracker, and QEMU
// with -no-reboot. It does not return.
func (s *system) restart() {
	for _, cmd := range []int{unix.LINUX_REBOOT_CMD_RESTART, unix.LINUX_REBOOT_CMD_POWER_OFF, unix.LINUX_REBOOT_CMD_HALT} {
		s.log.Printf("reboot: %v", unix.Reboot(cmd))
	}
	select {}
}
