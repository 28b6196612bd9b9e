package command

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// pipes are the standard streams of one command. Our ends do not block, the
// command's do: the flag belongs to the end, not to the pipe.
type pipes struct {
	stdin, stdout, stderr *os.File // our ends; stdin is nil for /dev/null
	child                 [3]uintptr
}

// openPipes leaves nothing open when it fails. All descriptors close on exec.
func openPipes(withStdin bool) (p *pipes, err error) {
	p = &pipes{}
	var fds []int
	defer func() {
		if err != nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}()
	pipe := func() (r, w int) {
		var ends [2]int
		if err == nil {
			if err = syscall.Pipe2(ends[:], unix.O_CLOEXEC); err == nil {
				fds = append(fds, ends[:]...)
			}
		}
		return ends[0], ends[1]
	}
	outR, outW := pipe()
	errR, errW := pipe()
	inR, inW := -1, -1
	if withStdin {
		inR, inW = pipe()
	} else if err == nil {
		if inR, err = unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			fds = append(fds, inR)
		}
	}
	for _, fd := range []int{outR, errR, inW} {
		if err == nil && fd >= 0 {
			err = unix.SetNonblock(fd, true)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open pipes: %w", err)
	}
	p.child = [3]uintptr{uintptr(inR), uintptr(outW), uintptr(errW)}
	p.stdout, p.stderr = os.NewFile(uintptr(outR), "stdout"), os.NewFile(uintptr(errR), "stderr")
	if withStdin {
		p.stdin = os.NewFile(uintptr(inW), "stdin")
	}
	return p, nil
}

// own makes the command's user the owner of its ends, so that opening
// /dev/stdout and its like works for others than root.
func (p *pipes) own(uid, gid uint32) error {
	for i, fd := range p.child {
		if i == 0 && p.stdin == nil {
			continue // /dev/null
		}
		if err := unix.Fchown(int(fd), int(uid), int(gid)); err != nil {
			return fmt.Errorf("own pipes: %w", err)
		}
	}
	return nil
}

func (p *pipes) closeChild() {
	for _, fd := range p.child {
		unix.Close(int(fd))
	}
}

func (p *pipes) closeParent() {
	p.stdout.Close()
	p.stderr.Close()
	if p.stdin != nil {
		p.stdin.Close()
	}
}
