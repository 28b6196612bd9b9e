//go:build host

package ext4

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// run runs a program and returns its output; any other exit status than 0
// fails the test.
func run(t testing.TB, argv ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%.4000s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// fsck requires that e2fsck finds nothing to change or to say.
func fsck(t testing.TB, image string) {
	t.Helper()
	out := run(t, "e2fsck", "-fn", image)
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "e2fsck "), strings.HasPrefix(line, "Pass "), strings.Contains(line, " files ("):
		default:
			t.Errorf("e2fsck says %q", line)
		}
	}
}

// mount mounts an image and unmounts it at the end of the test or by the
// returned function, whichever is first.
func mount(t testing.TB, image, options string) (dir string, unmount func()) {
	t.Helper()
	dir = t.TempDir()
	run(t, "mount", "-t", "ext4", "-o", "loop,"+options, image, dir)
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			if err := exec.Command("umount", dir).Run(); err != nil {
				t.Errorf("umount %s: %v", dir, err)
			}
		}
	}
	t.Cleanup(unmount)
	return dir, unmount
}

// listMount returns all that the kernel shows of a tree.
func listMount(t testing.TB, dir string) map[string]entry {
	t.Helper()
	out := make(map[string]entry)
	first := make(map[uint64]string)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("stat %q: %w", path, err)
		}
		name := strings.TrimPrefix(path, dir)
		if p, ok := first[st.Ino]; !ok || name < p {
			first[st.Ino] = name
		}
		e := entry{
			Mode: st.Mode, UID: st.Uid, GID: st.Gid, Links: uint32(st.Nlink),
			ModTime: fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec),
			Xattrs:  listXattrs(t, path),
			Same:    fmt.Sprint(st.Ino),
		}
		switch st.Mode & TypeMask {
		case TypeRegular:
			e.Size, e.Sum = st.Size, sumFile(t, path)
		case TypeSymlink:
			e.Size = st.Size
			if e.Target, err = os.Readlink(path); err != nil {
				return err
			}
		case TypeBlock, TypeChar:
			e.Major, e.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		out[name] = e
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, e := range out {
		var ino uint64
		fmt.Sscan(e.Same, &ino)
		e.Same = first[ino]
		out[name] = e
	}
	return out
}

func listXattrs(t testing.TB, path string) map[string]string {
	t.Helper()
	attrs := make(map[string]string)
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatalf("list attributes of %q: %v", path, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatalf("attribute %q of %q: %v", name, path, err)
		}
		attrs[name] = string(value[:n])
	}
	return attrs
}

func sumFile(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
