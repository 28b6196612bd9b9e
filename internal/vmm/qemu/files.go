package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// inheritance is what one VMM gets: its descriptors in order, from 0 on. The
// files are closed when the VMM has its own copies.
type inheritance struct{ files []*os.File }

// add takes ownership of f and returns its number in the VMM.
func (in *inheritance) add(f *os.File) int {
	in.files = append(in.files, f)
	return len(in.files) - 1
}

func (in *inheritance) close() {
	for _, f := range in.files {
		f.Close()
	}
	in.files = nil
}

// inherit opens all that the VMM of cfg works with, and adds output as its
// standard output and error. What is opened belongs to in also on failure.
func inherit(in *inheritance, cfg machine.VMConfig, output *os.File) (fds descriptors, err error) {
	take := func(f *os.File, openErr error) int {
		if openErr != nil {
			err = errors.Join(err, openErr)
			return -1
		}
		return in.add(f)
	}
	take(os.Open(os.DevNull))
	take(duplicate(output))
	take(duplicate(output))
	fds.kernel = take(openForUser(cfg.KernelPath, cfg.UID))
	if path := initrdPath(cfg); path != "" {
		fds.initrd = take(openForUser(path, cfg.UID))
	}
	for _, d := range cfg.Drives {
		mode := os.O_RDWR
		if d.ReadOnly {
			mode = os.O_RDONLY
		}
		fds.drives = append(fds.drives, take(os.OpenFile(d.Path, mode, 0)))
	}
	fds.agent = take(listen(cfg.RunDir, agentSocket))
	fds.console = take(listen(cfg.RunDir, consoleSocket))
	fds.monitor = take(listen(cfg.RunDir, monitorSocket))
	return fds, err
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// openForUser opens a file that QEMU reopens by /proc/self/fd, because it takes
// no descriptor for it. That needs the file's own permission: one that uid may
// not read (0 means ourselves) is copied into memory.
func openForUser(path string, uid int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if uid == 0 || st.Mode&0o004 != 0 {
		return f, nil
	}
	defer f.Close()
	return memoryCopy(f)
}

// memoryCopy copies f into a file in memory, which whoever holds it may open.
func memoryCopy(f *os.File) (*os.File, error) {
	fd, err := unix.MemfdCreate("hyperfleet-boot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("copy %s: %w", f.Name(), err)
	}
	m := os.NewFile(uintptr(fd), f.Name())
	_, err = io.Copy(m, f)
	if err == nil {
		_, err = unix.FcntlInt(m.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("copy %s: %w", f.Name(), err)
	}
	return m, nil
}

// maxOutput bounds what is kept of QEMU's own output, in bytes.
const maxOutput = 64 << 10

// outputName is what readOutput looks for in an adopted process.
const outputName = "hyperfleet-vmm-output"

// newOutput makes the file that QEMU writes its messages to. It is memory of a
// fixed size that neither needs a reader nor can be filled further, with or
// without a daemon: writes past its end fail, which QEMU ignores.
func newOutput() (*os.File, error) {
	fd, err := unix.MemfdCreate(outputName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make output of VMM: %w", err)
	}
	f := os.NewFile(uintptr(fd), outputName)
	err = f.Truncate(maxOutput)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("make output of VMM: %w", err)
	}
	return f, nil
}

// readOutput returns what was written to a file of newOutput.
func readOutput(f *os.File) []byte {
	if f == nil {
		return nil
	}
	b := make([]byte, maxOutput)
	n, _ := f.ReadAt(b, 0)
	return bytes.TrimRight(b[:n], "\x00")
}

// openOutput opens the output of a running VMM. The VMM may have put anything
// in its place, so only the sealed memory of newOutput is taken; nil otherwise.
func openOutput(pid int) *os.File {
	path := fmt.Sprintf("/proc/%d/fd/2", pid)
	if target, err := os.Readlink(path); err != nil || target != "/memfd:"+outputName+" (deleted)" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	if seals, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); err != nil || seals&unix.F_SEAL_GROW == 0 {
		f.Close()
		return nil
	}
	return f
}
