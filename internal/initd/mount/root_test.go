package mount_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
)

func openRoot(t testing.TB) (*mount.Root, string) {
	t.Helper()
	dir := t.TempDir()
	r, err := mount.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, dir
}

func requireContent(t testing.TB, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != want {
		t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
	}
}

// hostile links that lead out of an image when they are followed on the host.
func hostileLinks(outside string) map[string]string {
	return map[string]string{"absolute": outside, "dots": "../../../../../../../../" + outside, "self": "/proc/self/root" + outside}
}

func TestRootIsNeverLeft(t *testing.T) {
	outside := t.TempDir()
	for name, link := range hostileLinks(outside) {
		t.Run(name, func(t *testing.T) {
			r, dir := openRoot(t)
			if err := os.Symlink(link, dir+"/etc"); err != nil {
				t.Fatal(err)
			}
			// The link leads to a folder inside the root, which is made or not.
			err := mount.Dir{Path: "/etc/sub", Mode: 0o755}.Create(r)
			t.Logf("make a folder: %v", err)
			err = mount.Edit(r, "/etc/hosts", func([]byte) []byte { return []byte("evil") })
			t.Logf("edit: %v", err)
			err = mount.Symlink{Path: "/etc/x", Target: "y"}.Create(r)
			t.Logf("make a link: %v", err)
			if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
				t.Errorf("outside holds %v, %v", entries, err)
			}
		})
	}
}

func TestEdit(t *testing.T) {
	upper := func(old []byte) []byte { return append(bytes.ToUpper(old), '!') }
	for name, tt := range map[string]struct {
		prepare func(dir string) error
		want    string
		at      string
	}{
		"missing":       {func(string) error { return nil }, "!", "etc/f"},
		"regular":       {func(d string) error { return put(d+"/etc/f", "long text") }, "LONG TEXT!", "etc/f"},
		"dangling link": {func(d string) error { return link(d, "/run/none", "etc/f") }, "!", "etc/f"},
		"link inside":   {func(d string) error { return errors.Join(put(d+"/real", "a"), link(d, "/real", "etc/f")) }, "A!", "real"},
		"link loop":     {func(d string) error { return link(d, "f", "etc/f") }, "!", "etc/f"},
		"fifo":          {func(d string) error { return errors.Join(os.MkdirAll(d+"/etc", 0o755), unix.Mkfifo(d+"/etc/f", 0o600)) }, "!", "etc/f"},
	} {
		t.Run(name, func(t *testing.T) {
			r, dir := openRoot(t)
			if err := tt.prepare(dir); err != nil {
				t.Fatal(err)
			}
			if err := mount.Edit(r, "/etc/f", upper); err != nil {
				t.Fatal(err)
			}
			requireContent(t, filepath.Join(dir, tt.at), tt.want)
			if err := mount.Edit(r, "/etc/f", func([]byte) []byte { return []byte("s") }); err != nil {
				t.Fatal(err)
			}
			requireContent(t, filepath.Join(dir, tt.at), "s")
		})
	}
}

func put(name, content string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644))
}

func link(dir, target, name string) error {
	return errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.Symlink(target, filepath.Join(dir, name)))
}

func TestEditRefusesDirectory(t *testing.T) {
	r, dir := openRoot(t)
	if err := os.MkdirAll(dir+"/etc/f/full", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := mount.Edit(r, "/etc/f", func([]byte) []byte { return []byte("x") }); err == nil {
		t.Error("a directory was replaced")
	}
}

func TestCreatorsAreIdempotent(t *testing.T) {
	r, dir := openRoot(t)
	table := []mount.Creator{
		mount.Dir{Path: "/a/b/c", Mode: 0o700},
		mount.Symlink{Path: "/a/l", Target: "b"},
	}
	for range 2 {
		if err := mount.Create(r, table); err != nil {
			t.Fatal(err)
		}
	}
	if st, err := os.Stat(dir + "/a/l/c"); err != nil || !st.IsDir() {
		t.Errorf("%v, %v", st, err)
	}
}
