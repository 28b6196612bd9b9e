package kernel

import (
	"fmt"
	"io"
)

// cpioWriter writes an archive in cpio's "newc" format, which is what the
// kernel unpacks as an initramfs (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst). The same calls
// give the same bytes: owner and times are zero.
type cpioWriter struct {
	w   io.Writer
	ino int
	off int64
	err error
}

// File types of the mode field, as in stat(2).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

func (c *cpioWriter) dir(name string, perm int) {
	c.entry(name, cpioDir|perm, 2, 0, 0, nil)
}

func (c *cpioWriter) file(name string, perm int, data []byte) {
	c.entry(name, cpioFile|perm, 1, 0, 0, data)
}

func (c *cpioWriter) char(name string, perm, major, minor int) {
	c.entry(name, cpioChar|perm, 1, major, minor, nil)
}

// close ends the archive. It returns the first error of all calls.
func (c *cpioWriter) close() error {
	c.ino = -1 // the trailer's is 0
	c.entry("TRAILER!!!", 0, 1, 0, 0, nil)
	return c.err
}

func (c *cpioWriter) entry(name string, mode, nlink, major, minor int, data []byte) {
	c.ino++
	// magic ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor
	// rdevminor namesize check, then the name with its NUL.
	c.write([]byte(fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, nlink, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)))
	c.pad()
	c.write(data)
	c.pad()
}

// pad aligns to four bytes, as header and data both are.
func (c *cpioWriter) pad() {
	c.write(make([]byte, (4-c.off%4)%4))
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.off += int64(n)
	c.err = err
}
