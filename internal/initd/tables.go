package initd

import (
	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
)

// Places in the initramfs. The root file system's own are found in rootTable.
const (
	modulesList = "/hyperfleet/modules" // exists in our initramfs only
	modulesDir  = "/hyperfleet/lib"
	baseDir     = "/base"    // read-only base
	diskDir     = "/disk"    // the machine's own disk
	newRoot     = "/newroot" // what becomes the root
	baseDevice  = "/dev/vda"
	diskDevice  = "/dev/vdb"
	cgroupDir   = "/sys/fs/cgroup"
	commandsDir = cgroupDir + "/hyperfleet"
)

const (
	noSetuidDev = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	dataOnly    = noSetuidDev | unix.MOUNT_ATTR_NOEXEC
)

// kernelTable is what init needs to see the kernel. What is mounted in the
// initramfs moves to the root file system.
func kernelTable() []mount.Creator {
	return []mount.Creator{
		mount.Mount{FS: "proc", Target: "/proc", Attr: dataOnly},
		mount.Mount{FS: "sysfs", Target: "/sys", Attr: dataOnly},
		mount.Mount{FS: "devtmpfs", Target: "/dev", Attr: unix.MOUNT_ATTR_NOSUID, Options: []string{"mode=755"}},
	}
}

// rootTable is what every root file system gets, beside kernelTable. A root that
// cannot be written to gets a /tmp in memory; else /tmp stays on the disk, as in
// the image.
func rootTable(readOnly bool) []mount.Creator {
	table := []mount.Creator{
		// ptmxmode lets any user open /dev/pts/ptmx; group 5 is "tty" on all
		// distributions (Documentation/filesystems/devpts.rst).
		mount.Mount{FS: "devpts", Target: "/dev/pts", Attr: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Options: []string{"ptmxmode=0666", "mode=0620", "gid=5"}},
		mount.Mount{FS: "tmpfs", Source: "shm", Target: "/dev/shm", Attr: noSetuidDev, Options: []string{"mode=1777"}},
		mount.Mount{FS: "mqueue", Target: "/dev/mqueue", Attr: dataOnly, Optional: true},
		mount.Symlink{Path: "/dev/fd", Target: "/proc/self/fd"},
		mount.Symlink{Path: "/dev/stdin", Target: "/proc/self/fd/0"},
		mount.Symlink{Path: "/dev/stdout", Target: "/proc/self/fd/1"},
		mount.Symlink{Path: "/dev/stderr", Target: "/proc/self/fd/2"},
		mount.Mount{FS: "tmpfs", Source: "run", Target: "/run", Attr: noSetuidDev, Options: []string{"mode=755"}, Seed: true},
		mount.Mount{FS: "cgroup2", Target: cgroupDir, Attr: dataOnly, Optional: true},
	}
	if readOnly {
		table = append(table, mount.Mount{FS: "tmpfs", Source: "tmp", Target: "/tmp", Attr: noSetuidDev, Options: []string{"mode=1777"}})
	}
	return table
}

// diskTable mounts the two disks and what they are joined to. ext4's barriers
// are on by default and stay so: a flush of the guest reaches the host's file.
func diskTable() []mount.Creator {
	return []mount.Creator{
		mount.Mount{FS: "ext4", Source: baseDevice, Target: baseDir, ReadOnly: true},
		mount.Mount{FS: "ext4", Source: diskDevice, Target: diskDir, Options: []string{"errors=remount-ro"}},
		mount.Dir{Path: diskDir + "/upper", Mode: 0o755},
		mount.Dir{Path: diskDir + "/work", Mode: 0o755},
		mount.Mount{FS: "overlay", Target: newRoot, Options: []string{
			"lowerdir=" + baseDir, "upperdir=" + diskDir + "/upper", "workdir=" + diskDir + "/work",
		}},
	}
}

// plainRoot mounts one disk as the root, for a machine without an overlay.
func plainRoot(readOnly bool) mount.Mount {
	return mount.Mount{FS: "ext4", Source: baseDevice, Target: newRoot, ReadOnly: readOnly}
}

// sysctl is one switch of the kernel, a path below /proc/sys.
type sysctl struct{ path, value string }

// sysctls are set where the kernel has them.
var sysctls = []sysctl{
	{"kernel/core_pattern", "core"}, // no helper program of the image as root
	{"kernel/panic", "-1"},          // reboot at once: the host sees a dead machine, not a silent one
	{"kernel/sysrq", "0"},           // nothing on the console is a command
	// As container engines set them, whose images rely on it.
	{"net/ipv4/ip_unprivileged_port_start", "0"},
	{"net/ipv4/ping_group_range", "0 2147483647"},
}
