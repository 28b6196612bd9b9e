// Package volume keeps an image's volume paths directly on the machine's disk,
// outside the overlay: a database or a container engine in the guest gets a
// plain file system there. A volume begins as a copy of what the image has at
// its path.
//
// The image is hostile: its paths are resolved inside its root, and what is
// copied is copied by filetree, which follows no link.
package volume

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/filetree"
	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
)

// Set is the volumes of one machine.
type Set struct {
	Store string      // folder on the disk, made when missing
	Root  *mount.Root // the joined root that the paths are in
	Log   *log.Logger // told of paths that are no place for a volume
}

// Attach fills the volumes that are new and shows each at its path. It must be
// called once per boot, before anything else changes the root.
func (s Set) Attach(paths []string) error {
	if len(paths) == 0 {
		return nil
	}
	if err := os.MkdirAll(s.Store, 0o755); err != nil {
		return fmt.Errorf("volumes: %w", err)
	}
	paths = clean(paths)
	for _, p := range paths {
		// All before the first bind: a volume inside another one begins as the
		// image's content, too.
		if err := s.unlessMisplaced(p, s.fill(p)); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if err := s.unlessMisplaced(p, s.bind(p)); err != nil {
			return err
		}
	}
	return nil
}

// unlessMisplaced lets an image whose volume path is a file or leads nowhere go
// without that volume: what is written there stays in the overlay.
func (s Set) unlessMisplaced(p string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOENT):
		s.Log.Printf("no volume at %q: %v", p, err)
		return nil
	}
	return fmt.Errorf("volume %q: %w", p, err)
}

// clean sorts the paths, parents first, and drops the root and duplicates.
func clean(paths []string) []string {
	out := make([]string, 0, len(paths))
	for _, p := range paths {
		if p = path.Clean("/" + p); p != "/" {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// dir is the volume's folder in the store. A path may be longer than a name.
func (s Set) dir(p string) string {
	sum := fnv.New128a() // two paths of one image that collide harm that image alone
	sum.Write([]byte(p))
	return path.Join(s.Store, hex.EncodeToString(sum.Sum(nil)))
}

// fill copies the image's content. The folder appears under its final name only
// when it is complete and on the disk.
func (s Set) fill(p string) error {
	final := s.dir(p)
	if _, err := os.Lstat(final); err == nil {
		return nil
	}
	part := final + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	to, err := unix.Open(part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(to)
	from, err := s.Root.Open(p, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
	case err != nil:
		return err
	default:
		defer unix.Close(from)
		if err := filetree.Copy(to, from); err != nil {
			return err
		}
	}
	if err := unix.Syncfs(to); err != nil {
		return err
	}
	return os.Rename(part, final)
}

func (s Set) bind(p string) error {
	fd, err := unix.Open(s.dir(p), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return mount.Bind(s.Root, fd, p)
}
