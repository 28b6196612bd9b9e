package mount

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/filetree"
)

// Creator is one entry of a table. Its String reads as a log line and is what
// tests compare; Create does it.
type Creator interface {
	Create(r *Root) error
	fmt.Stringer
}

// Create makes every entry of a table, in order, and stops at the first error.
func Create(r *Root, table []Creator) error {
	for _, c := range table {
		if err := c.Create(r); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
	}
	return nil
}

// Dir is a directory.
type Dir struct {
	Path string
	Mode uint32
}

func (d Dir) String() string { return fmt.Sprintf("dir %s mode %04o", d.Path, d.Mode) }

// Create makes the directory and its parents; one that exists is left as it is.
func (d Dir) Create(r *Root) error {
	fd, err := r.MkdirAll(d.Path, d.Mode)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// Symlink is a symbolic link.
type Symlink struct{ Path, Target string }

func (s Symlink) String() string { return fmt.Sprintf("symlink %s -> %s", s.Path, s.Target) }

// Create makes the link; whatever has its name already is left as it is.
func (s Symlink) Create(r *Root) error {
	fd, base, err := r.Parent(s.Path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Symlinkat(s.Target, fd, base); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// Mount is a file system.
type Mount struct {
	FS       string
	Source   string   // device or name; "" means FS
	Target   string   // directory, made when missing, replaced when no directory
	Attr     int      // unix.MOUNT_ATTR_*
	ReadOnly bool     // of the file system, not only of the mount
	Options  []string // of the file system: key or key=value
	Optional bool     // a kernel that lacks FS is fine
	Seed     bool     // begin with what the directory had, or leave it when that is too much
}

func (m Mount) String() string {
	s := fmt.Sprintf("mount %s on %s", m.FS, m.Target)
	if m.Source != "" {
		s += " from " + m.Source
	}
	if opts := m.options(); len(opts) > 0 {
		s += " (" + strings.Join(opts, ",") + ")"
	}
	return s
}

var attrNames = []struct {
	attr int
	name string
}{
	{unix.MOUNT_ATTR_RDONLY, "ro"}, {unix.MOUNT_ATTR_NOSUID, "nosuid"},
	{unix.MOUNT_ATTR_NODEV, "nodev"}, {unix.MOUNT_ATTR_NOEXEC, "noexec"},
	{unix.MOUNT_ATTR_NOATIME, "noatime"},
}

func (m Mount) options() []string {
	var opts []string
	if m.ReadOnly {
		opts = append(opts, "ro")
	}
	for _, a := range attrNames {
		if m.Attr&a.attr != 0 {
			opts = append(opts, a.name)
		}
	}
	opts = append(opts, m.Options...)
	if m.Seed {
		opts = append(opts, "seeded")
	}
	return opts
}

// Create mounts the file system.
func (m Mount) Create(r *Root) error {
	at, err := r.mountpoint(m.Target, 0o755)
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	defer unix.Close(at)
	fd, err := m.open()
	if err != nil {
		if m.Optional && errors.Is(err, unix.ENODEV) {
			return nil
		}
		return err
	}
	defer unix.Close(fd)
	if m.Seed && seed(fd, at) != nil {
		return nil // for a file system in memory; on disk it works as well
	}
	return attach(fd, at)
}

// seed copies the directory at into the detached mount mnt.
func seed(mnt, at int) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	from, err := unix.Openat(at, ".", flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	to, err := unix.Openat(mnt, ".", flags, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	return filetree.Copy(to, from)
}

// open makes the file system as a detached mount.
func (m Mount) open() (int, error) {
	fs, err := unix.Fsopen(m.FS, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := m.configure(fs); err != nil {
		return -1, withLog(fs, err)
	}
	attr := m.Attr
	if m.ReadOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
}

func (m Mount) configure(fs int) error {
	source := m.Source
	if source == "" {
		source = m.FS
	}
	if err := unix.FsconfigSetString(fs, "source", source); err != nil {
		return err
	}
	if m.ReadOnly {
		if err := unix.FsconfigSetFlag(fs, "ro"); err != nil {
			return err
		}
	}
	for _, opt := range m.Options {
		key, value, ok := strings.Cut(opt, "=")
		set := func() error { return unix.FsconfigSetFlag(fs, key) }
		if ok {
			set = func() error { return unix.FsconfigSetString(fs, key, value) }
		}
		if err := set(); err != nil {
			return fmt.Errorf("option %s: %w", opt, err)
		}
	}
	return unix.FsconfigCreate(fs)
}

// withLog adds the last line that the kernel has to say about fs: reading the
// descriptor gives one message at a time, ENODATA after the last.
func withLog(fs int, err error) error {
	buf := make([]byte, 512)
	var last string
	for range 16 {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 {
			break
		}
		last = strings.TrimSpace(string(buf[:n]))
	}
	if last == "" {
		return err
	}
	return fmt.Errorf("%w (%s)", err, last)
}

func attach(mnt, at int) error {
	return unix.MoveMount(mnt, "", at, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// Bind shows the directory src (a descriptor) at target inside r, following
// symbolic links inside r only.
func Bind(r *Root, src int, target string) error {
	at, err := r.MkdirAll(target, 0o755)
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	defer unix.Close(at)
	fd, err := unix.OpenTree(src, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, at)
}

// Move takes the mount at the path from, outside of r, to target inside r. As for
// Mount, what is no directory there is replaced.
func Move(r *Root, from, target string) error {
	at, err := r.mountpoint(target, 0o755)
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	defer unix.Close(at)
	return unix.MoveMount(unix.AT_FDCWD, from, at, "", unix.MOVE_MOUNT_T_EMPTY_PATH)
}
