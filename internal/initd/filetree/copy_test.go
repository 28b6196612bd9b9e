package filetree_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/filetree"
)

// describe lists a tree with all that Copy must keep; hard links by the first
// name of their file.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		fmt.Fprintf(&b, "%q %o %d:%d %d.%d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", content)
			if st.Nlink > 1 {
				if first[st.Ino] == "" {
					first[st.Ino] = rel
				}
				fmt.Fprintf(&b, " = %q", first[st.Ino])
			}
			value := make([]byte, 64)
			if n, err := unix.Lgetxattr(p, "user.test", value); err == nil {
				fmt.Fprintf(&b, " x=%q", value[:n])
			}
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %q", target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func build(t testing.TB, dir string) {
	t.Helper()
	outside := filepath.Join(t.TempDir(), "outside")
	steps := []error{
		os.WriteFile(outside, []byte("secret"), 0o644),
		os.MkdirAll(dir+"/sub/deep", 0o755),
		os.WriteFile(dir+"/file", []byte("content"), 0o644),
		os.WriteFile(dir+"/na\xffme\n", nil, 0o600),
		os.Link(dir+"/file", dir+"/sub/deep/hard"),
		os.Symlink(outside, dir+"/link"),
		os.Symlink("dangling", dir+"/sub/dangling"),
		unix.Mkfifo(dir+"/fifo", 0o640),
		unix.Setxattr(dir+"/file", "user.test", []byte("v\x00"), 0),
		os.Chmod(dir+"/file", 0o755|fs.ModeSetuid),
		unix.UtimesNano(dir+"/file", []unix.Timespec{{Sec: 1}, {Sec: 2, Nsec: 3}}),
		os.Chmod(dir+"/sub", 0o555),
		unix.UtimesNano(dir+"/sub", []unix.Timespec{{Sec: 4}, {Sec: 5}}),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir+"/sub", 0o755) })
}

func open(t testing.TB, dir string) int {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestCopyIsExact(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	build(t, from)
	if err := filetree.Copy(open(t, to), open(t, from)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(to+"/sub", 0o755) })
	if diff := cmp.Diff(describe(t, from), describe(t, to)); diff != "" {
		t.Error(diff)
	}
}

func TestCopyRefusesEndlessDepth(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	fd, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 1100 {
		if err := unix.Mkdirat(fd, "d", 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "d", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if err := filetree.Copy(open(t, to), open(t, from)); err == nil {
		t.Error("a tree without end was copied")
	}
}

func TestCopyFailsOnOccupiedTarget(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	build(t, from)
	if err := os.Symlink("/etc/passwd", to+"/file"); err != nil {
		t.Fatal(err)
	}
	if err := filetree.Copy(open(t, to), open(t, from)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("copy over a link: %v", err)
	}
}
