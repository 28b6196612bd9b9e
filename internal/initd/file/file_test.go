package file_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/file"
)

func put(t testing.TB, name, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func requireFile(t testing.TB, name, content string, mode fs.FileMode) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil || string(b) != content {
		t.Errorf("%s holds %q, %v; want %q", name, b, err, content)
	}
	if st, err := os.Lstat(name); err != nil || st.Mode() != mode {
		t.Errorf("%s is %v, %v; want %v", name, st.Mode(), err, mode)
	}
}

func requireNames(t testing.TB, dir string, want ...string) {
	t.Helper()
	var got []string
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s holds %q, %v; want %q", dir, got, err, want)
	}
}

func requireErrno(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestWriteModes(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/old", "before", 0o604)
	for name, tt := range map[string]struct{ ask, want fs.FileMode }{
		"new":   {0, file.DefaultMode},
		"given": {0o755 | fs.ModeSetgid, 0o755 | fs.ModeSetgid},
		"old":   {0, 0o604},
	} {
		n, err := file.Write(dir+"/"+name, tt.ask, strings.NewReader("after"))
		if err != nil || n != 5 {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		requireFile(t, dir+"/"+name, "after", tt.want)
	}
	requireNames(t, dir, "given", "new", "old")
}

func TestWriteFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(
		os.MkdirAll(dir+"/a/b", 0o755), os.Symlink("b", dir+"/a/link"),
		os.Symlink("a/link/../target", dir+"/one"), os.Symlink("one", dir+"/two"),
		os.Symlink("loop", dir+"/loop"),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(dir+"/two", 0, strings.NewReader("x")); err != nil {
		t.Fatal(err)
	}
	requireFile(t, dir+"/a/target", "x", 0o644)
	requireNames(t, dir, "a", "loop", "one", "two")
	_, err := file.Write(dir+"/loop", 0, strings.NewReader("x"))
	requireErrno(t, err, unix.ELOOP)
}

func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/file", "old", 0o644)
	bad := errors.New("bad source")
	for name, tt := range map[string]struct {
		path string
		r    io.Reader
		want error
	}{
		"source":         {dir + "/file", io.MultiReader(strings.NewReader("new"), failing{bad}), bad},
		"directory":      {dir, strings.NewReader("x"), unix.EISDIR},
		"trailing slash": {dir + "/file/", strings.NewReader("x"), unix.ENOTDIR},
		"dots":           {dir + "/..", strings.NewReader("x"), unix.EISDIR},
		"no parent":      {dir + "/no/file", strings.NewReader("x"), unix.ENOENT},
		"file as parent": {dir + "/file/x", strings.NewReader("x"), unix.ENOTDIR},
	} {
		if _, err := file.Write(tt.path, 0, tt.r); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	requireFile(t, dir+"/file", "old", 0o644)
	requireNames(t, dir, "file")
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

func TestWriteToDevice(t *testing.T) {
	if n, err := file.Write("/dev/null", 0, strings.NewReader("gone")); n != 4 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if st, err := os.Stat("/dev/null"); err != nil || st.Mode()&fs.ModeDevice == 0 {
		t.Errorf("/dev/null is %v, %v", st.Mode(), err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(dir+"/fifo", 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{dir: unix.EISDIR, dir + "/fifo": unix.EINVAL, "/dev/zero": unix.EINVAL, dir + "/no": unix.ENOENT} {
		_, _, err := file.Open(name)
		requireErrno(t, err, want)
	}
	f, st, err := file.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || len(b) == 0 || st.Size() != 0 {
		t.Errorf("%d bytes of %d, %v", len(b), st.Size(), err)
	}
}

func TestListManyAndLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/nowhere", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	want := 1
	for i := range 1000 {
		put(t, filepath.Join(dir, strings.Repeat("x", i%200+1)+string(rune('a'+i/200))), "", 0o600)
		want++
	}
	seen := map[string]fs.FileMode{}
	err := file.List(t.Context(), dir, func(st fs.FileInfo) error { seen[st.Name()] = st.Mode(); return nil })
	if err != nil || len(seen) != want || seen["link"]&fs.ModeSymlink == 0 {
		t.Errorf("%d entries, link %v, %v; want %d", len(seen), seen["link"], err, want)
	}
	stop := errors.New("enough")
	requireErrno(t, file.List(t.Context(), dir, func(fs.FileInfo) error { return stop }), stop)
	requireErrno(t, file.List(t.Context(), dir+"/link", func(fs.FileInfo) error { return nil }), unix.ENOENT)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	requireErrno(t, file.List(ctx, dir, func(fs.FileInfo) error { return nil }), context.Canceled)
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	outside := t.TempDir()
	put(t, outside+"/precious", "x", 0o644)
	if err := errors.Join(
		os.MkdirAll(dir+"/tree/a/b", 0o755), os.Symlink(outside, dir+"/tree/a/out"),
		os.Symlink(outside, dir+"/link"), os.Mkdir(dir+"/empty", 0o755),
	); err != nil {
		t.Fatal(err)
	}
	requireErrno(t, file.Remove(dir+"/tree", false), unix.ENOTEMPTY)
	requireErrno(t, file.Remove(dir+"/no", true), unix.ENOENT)
	for _, p := range []string{"/", "//", "/..", "/a/.", dir + "/tree/.."} {
		requireErrno(t, file.Remove(p, true), unix.EBUSY)
	}
	for _, err := range []error{
		file.Remove(dir+"/tree", true), file.Remove(dir+"/link", true), file.Remove(dir+"/empty/", false),
	} {
		requireErrno(t, err, nil)
	}
	requireNames(t, dir)
	requireFile(t, outside+"/precious", "x", 0o644)
}

func TestMkdirAndRename(t *testing.T) {
	dir := t.TempDir()
	requireErrno(t, file.Mkdir(dir+"/a/b", 0o755, false), unix.ENOENT)
	requireErrno(t, file.Mkdir(dir+"/a/b", 0o777|fs.ModeSticky, true), nil)
	requireErrno(t, file.Mkdir(dir+"/a/b", 0o700, true), nil)
	requireErrno(t, file.Mkdir(dir+"/a/b", 0o700, false), unix.EEXIST)
	if st, err := file.Stat(dir + "/a/b"); err != nil || st.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	put(t, dir+"/file", "x", 0o644)
	requireErrno(t, file.Mkdir(dir+"/file", 0o700, true), unix.EEXIST)
	requireErrno(t, file.Rename(dir+"/file", dir+"/a/b/moved"), nil)
	requireFile(t, dir+"/a/b/moved", "x", 0o644)
	requireErrno(t, file.Rename(dir+"/file", dir+"/x"), unix.ENOENT)
}
