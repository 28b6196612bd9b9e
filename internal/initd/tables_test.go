package initd

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
)

func lines(table []mount.Creator) string {
	var b strings.Builder
	for _, c := range table {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}

func TestRootTable(t *testing.T) {
	want := `mount proc on /proc (nosuid,nodev,noexec)
mount sysfs on /sys (nosuid,nodev,noexec)
mount devtmpfs on /dev (nosuid,mode=755)
mount devpts on /dev/pts (nosuid,noexec,ptmxmode=0666,mode=0620,gid=5)
mount tmpfs on /dev/shm from shm (nosuid,nodev,mode=1777)
mount mqueue on /dev/mqueue (nosuid,nodev,noexec)
symlink /dev/fd -> /proc/self/fd
symlink /dev/stdin -> /proc/self/fd/0
symlink /dev/stdout -> /proc/self/fd/1
symlink /dev/stderr -> /proc/self/fd/2
mount tmpfs on /run from run (nosuid,nodev,mode=755,seeded)
mount cgroup2 on /sys/fs/cgroup (nosuid,nodev,noexec)
`
	if diff := cmp.Diff(want, lines(kernelTable())+lines(rootTable(false))); diff != "" {
		t.Error(diff)
	}
	want += "mount tmpfs on /tmp from tmp (nosuid,nodev,mode=1777)\n"
	if diff := cmp.Diff(want, lines(kernelTable())+lines(rootTable(true))); diff != "" {
		t.Error(diff)
	}
}

func TestDiskTable(t *testing.T) {
	want := `mount ext4 on /base from /dev/vda (ro)
mount ext4 on /disk from /dev/vdb (errors=remount-ro)
dir /disk/upper mode 0755
dir /disk/work mode 0755
mount overlay on /newroot (lowerdir=/base,upperdir=/disk/upper,workdir=/disk/work)
`
	if diff := cmp.Diff(want, lines(diskTable())); diff != "" {
		t.Error(diff)
	}
}
