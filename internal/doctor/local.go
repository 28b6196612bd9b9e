package doctor

import (
	"context"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// programTimeout bounds a program that only tells its version.
const programTimeout = 5 * time.Second

// Local is this host. Daemon and Nftables are the caller's to set.
func Local() Host {
	return Host{
		ReadFile: func(path string) (string, error) { raw, err := os.ReadFile(path); return string(raw), err },
		LookPath: exec.LookPath,
		Output: func(ctx context.Context, program string, args ...string) (string, error) {
			ctx, cancel := context.WithTimeout(ctx, programTimeout)
			defer cancel()
			out, err := exec.CommandContext(ctx, program, args...).Output()
			return string(out), err
		},
		OpenKVM: func() error {
			f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return f.Close()
		},
		UID: os.Geteuid,
		Folder: func(path string) (uint32, int, error) {
			var st unix.Stat_t
			err := unix.Stat(path, &st)
			return st.Mode & 0o7777, int(st.Uid), err
		},
		FreeBytes: func(path string) (uint64, error) {
			var st unix.Statfs_t
			err := unix.Statfs(path, &st)
			return st.Bavail * uint64(st.Bsize), err
		},
		Reflink: tryReflink,
		Listen: func(address string) error {
			l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
			if err != nil {
				return err
			}
			return l.Close()
		},
		OpenFiles: func() uint64 {
			var limit unix.Rlimit
			if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
				return 0
			}
			return limit.Cur
		},
	}
}

// tryReflink shares a block between two files that have no names.
func tryReflink(dir string) error {
	files := [2]int{}
	for i := range files {
		fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		files[i] = fd
	}
	if _, err := unix.Write(files[0], make([]byte, 4096)); err != nil {
		return err
	}
	return unix.IoctlFileClone(files[1], files[0])
}
