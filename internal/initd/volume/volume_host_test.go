//go:build host

package volume_test

import (
	"errors"
	"log"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
	"github.com/hyperfleet/hyperfleet/internal/initd/volume"
)

// inMountNamespace runs f where its mounts are nobody else's. The thread ends
// with f, as it cannot go back.
func inMountNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")); err != nil {
			t.Errorf("new mount namespace: %v", err)
			return
		}
		f(t)
	}()
	<-done
}

func attach(t *testing.T, root, store string, paths ...string) error {
	t.Helper()
	r, err := mount.OpenRoot(root)
	if err != nil {
		t.Error(err)
		return err
	}
	defer r.Close()
	return volume.Set{Store: store, Root: r, Log: log.New(t.Output(), "", 0)}.Attach(paths)
}

func requireContent(t *testing.T, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(name); err != nil || string(b) != want {
		t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
	}
}

func requireNil(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}

// detach unmounts what attach has bound.
func detach(t *testing.T, root string, paths ...string) {
	t.Helper()
	for _, p := range paths {
		requireNil(t, unix.Unmount(filepath.Join(root, p), unix.MNT_DETACH))
	}
}

func TestAttachKeepsContentOverBoots(t *testing.T) {
	root, store := t.TempDir(), filepath.Join(t.TempDir(), "volumes")
	requireNil(t,
		os.MkdirAll(root+"/data/sub", 0o755), os.WriteFile(root+"/data/seed", []byte("image"), 0o644),
		os.WriteFile(root+"/data/sub/inner", []byte("image"), 0o644))
	inMountNamespace(t, func(t *testing.T) {
		paths := []string{"/data/sub", "/data", "/new/one", "/", "/data"}
		requireNil(t, attach(t, root, store, paths...))
		requireContent(t, root+"/data/seed", "image")
		requireContent(t, root+"/data/sub/inner", "image")
		requireNil(t, os.WriteFile(root+"/data/seed", []byte("guest"), 0o644), os.WriteFile(root+"/new/one/x", []byte("x"), 0o644))
		detach(t, root, "data/sub", "data", "new/one")
		requireContent(t, root+"/data/seed", "image")
		requireNil(t, attach(t, root, store, paths...))
		requireContent(t, root+"/data/seed", "guest")
		requireContent(t, root+"/new/one/x", "x")
		detach(t, root, "data/sub", "data", "new/one")
	})
}

func TestAttachFillsAgainAfterACrash(t *testing.T) {
	root, store := t.TempDir(), filepath.Join(t.TempDir(), "volumes")
	requireNil(t, os.MkdirAll(root+"/data", 0o755), os.WriteFile(root+"/data/seed", []byte("image"), 0o644))
	inMountNamespace(t, func(t *testing.T) {
		requireNil(t, attach(t, root, store, "/data"))
		detach(t, root, "data")
		// As if the machine had died before the copy was complete.
		entries, err := os.ReadDir(store)
		if err != nil || len(entries) != 1 {
			t.Errorf("store holds %v, %v", entries, err)
			return
		}
		final := filepath.Join(store, entries[0].Name())
		requireNil(t, os.Rename(final, final+".part"), os.WriteFile(final+".part/seed", []byte("half"), 0o644))
		requireNil(t, attach(t, root, store, "/data"))
		requireContent(t, root+"/data/seed", "image")
		detach(t, root, "data")
	})
}

func TestAttachStaysInTheRoot(t *testing.T) {
	outside, root, store := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "volumes")
	requireNil(t, os.WriteFile(outside+"/secret", []byte("host"), 0o644),
		os.Symlink(outside, root+"/abs"), os.Symlink("../../../../../../.."+outside, root+"/dots"))
	inMountNamespace(t, func(t *testing.T) {
		for _, p := range []string{"/abs", "/dots/x"} {
			err := attach(t, root, store, p)
			t.Logf("attach %s: %v", p, err)
		}
		table, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil || strings.Contains(string(table), " "+outside) {
			t.Errorf("mounted outside of the root: %v", err)
		}
		requireContent(t, outside+"/secret", "host")
		found, err := filepath.Glob(store + "/*/secret")
		if err != nil || len(found) != 0 {
			t.Errorf("copied %v, %v", found, err)
		}
	})
}
