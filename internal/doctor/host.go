package doctor

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	minFreeBytes = 2 << 30 // an image and some disks
	minMemKiB    = 512 << 10
	minOpenFiles = 4096
)

func stateFolder(_ context.Context, c Config, h Host) Result {
	return folder(c.StateDir, 0o077, "HYPERFLEET_STATE_DIR", h)
}

func runFolder(_ context.Context, c Config, h Host) Result {
	return folder(c.RunDir, 0o022, "HYPERFLEET_RUN_DIR", h)
}

// folder looks at a folder that the daemon would make or take.
func folder(path string, closed uint32, variable string, h Host) Result {
	mode, owner, err := h.Folder(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ok("%s will be made", path)
	case err != nil:
		return fail("set "+variable+" to a folder of yours", "%s: %v", path, err)
	case owner != h.UID():
		return fail("run as that user, or set "+variable, "%s belongs to uid %d", path, owner)
	case mode&closed != 0:
		return warn("the daemon closes it when it starts", "%s is open to others (mode %o)", path, mode)
	}
	return ok("%s", path)
}

// existing is the nearest folder above path that is there.
func existing(path string, h Host) string {
	for path != "/" && path != "." {
		if _, _, err := h.Folder(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func diskSpace(_ context.Context, c Config, h Host) Result {
	free, err := h.FreeBytes(existing(c.StateDir, h))
	switch {
	case err != nil:
		return warn("set HYPERFLEET_STATE_DIR to another disk", "free space is unknown: %v", err)
	case free < minFreeBytes:
		return warn("free some, or set HYPERFLEET_STATE_DIR to another disk", "%d MiB are free for images and disks", free>>20)
	}
	return ok("%d MiB are free for images and disks", free>>20)
}

func reflink(_ context.Context, c Config, h Host) Result {
	if err := h.Reflink(existing(c.StateDir, h)); err != nil {
		return warn("nothing needs it; XFS or Btrfs copy disks without taking space", "the state folder cannot share blocks: %v", err)
	}
	return ok("the state folder shares blocks between files")
}

func daemonAnswers(ctx context.Context, c Config, h Host) Result {
	version, err := h.Daemon(ctx)
	switch {
	case err != nil:
		return ok("none answers at %s", c.Socket)
	case version != c.Version:
		return warn("restart it: machines go on running", "the running daemon is of version %s, this program of %s", version, c.Version)
	}
	return ok("one answers at %s", c.Socket)
}

func port(ctx context.Context, c Config, h Host) Result {
	err := h.Listen(c.Address)
	if err == nil {
		return ok("%s is free", c.Address)
	}
	if _, daemonErr := h.Daemon(ctx); daemonErr == nil {
		return ok("%s is in use while a daemon answers", c.Address)
	}
	return fail("end what uses it, or set PORT", "%s cannot be listened on: %v", c.Address, err)
}

func socketPath(_ context.Context, c Config, _ Host) Result {
	if len(c.Socket) > c.SocketLimit {
		return fail("set HYPERFLEET_RUN_DIR to a shorter path", "%s has %d bytes, of %d", c.Socket, len(c.Socket), c.SocketLimit)
	}
	return ok("%s has %d bytes, of %d", c.Socket, len(c.Socket), c.SocketLimit)
}

func memory(_ context.Context, _ Config, h Host) Result {
	info, err := h.ReadFile("/proc/meminfo")
	_, rest, found := strings.Cut(info, "MemAvailable:")
	fields := strings.Fields(rest)
	if err != nil || !found || len(fields) == 0 {
		return warn("mount /proc", "memory is unknown")
	}
	kib, err := strconv.ParseUint(fields[0], 10, 64)
	switch {
	case err != nil:
		return warn("mount /proc", "memory is unknown: %v", err)
	case kib < minMemKiB:
		return warn("end something, or make machines smaller", "%d MiB of memory are available", kib>>10)
	}
	return ok("%d MiB of memory are available", kib>>10)
}

func openFiles(_ context.Context, _ Config, h Host) Result {
	if n := h.OpenFiles(); n < minOpenFiles {
		return warn("ulimit -n 65536, or LimitNOFILE= in the unit", "%d files may be open", n)
	}
	return ok("%d files may be open", h.OpenFiles())
}

func apt(_ context.Context, _ Config, h Host) Result {
	if _, err := h.LookPath("apt-get"); err != nil {
		return warn("hyperfleet setup --kernel FILE takes a kernel of yours", "apt-get is not found, which setup gets a kernel with")
	}
	return ok("setup can get a kernel by apt")
}

func clock(_ context.Context, _ Config, h Host) Result {
	source, err := h.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	source = strings.TrimSpace(source)
	switch {
	case err != nil:
		return warn("mount /sys", "the clock source is unknown: %v", err)
	case source == "hpet" || source == "acpi_pm" || source == "jiffies":
		return warn("find out why the kernel gave up the TSC (dmesg)", "the clock source is %s, which is slow to read", source)
	}
	return ok("the clock source is %s", source)
}
