package ext4

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

var _ machine.Disks = Disks{}

// faultFile fails one operation, counted from 1, and may call a hook before each.
type faultFile struct {
	file
	failAt int
	err    error
	ops    int
	before func()
}

func (f *faultFile) fault() error {
	if f.before != nil {
		f.before()
	}
	if f.ops++; f.ops == f.failAt {
		return f.err
	}
	return nil
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.fault(); err != nil {
		return 0, err
	}
	return f.file.WriteAt(p, off)
}

func (f *faultFile) Truncate(size int64) error {
	return errors.Join(f.fault(), f.file.Truncate(size))
}

func (f *faultFile) Sync() error { return errors.Join(f.fault(), f.file.Sync()) }

func (f *faultFile) Close() error { return errors.Join(f.file.Close(), f.fault()) }

func (f *faultFile) punch(off, length int64) error {
	return errors.Join(f.fault(), f.file.punch(off, length))
}

func TestCreateFailsAtEachStep(t *testing.T) {
	for failAt := 1; ; failAt++ {
		path := filepath.Join(t.TempDir(), "disk")
		var f *faultFile
		d := Disks{create: func(path string) (file, error) {
			inner, err := createFile(path)
			f = &faultFile{file: inner, failAt: failAt, err: syscall.ENOSPC}
			return f, err
		}}
		err := d.Create(t.Context(), path, 64<<20)
		if f.ops < failAt {
			if err != nil {
				t.Fatal(err)
			}
			if failAt < 10 {
				t.Errorf("only %d operations could fail", failAt-1)
			}
			return
		}
		if !errdefs.Is(err, errdefs.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("operation %d: got %v", failAt, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("operation %d leaves a file", failAt)
		}
		if err := (Disks{}).Create(t.Context(), path, 64<<20); err != nil {
			t.Errorf("again after operation %d: %v", failAt, err)
		}
	}
}

func TestCreateHonoursContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	for cancelAt := range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		d := Disks{create: func(path string) (file, error) {
			if cancelAt == 0 {
				cancel()
			}
			inner, err := createFile(path)
			return &faultFile{file: inner, before: func() {
				if calls++; calls == cancelAt {
					cancel()
				}
			}}, err
		}}
		if err := d.Create(ctx, path, 64<<20); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at %d: got %v", cancelAt, err)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("cancelled at %d: leaves a file", cancelAt)
		}
		cancel()
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "disk")
	for _, size := range []int64{-1, 0, MinDiskSize - 1, MaxDiskSize + 1} {
		if err := (Disks{}).Create(t.Context(), path, size); errdefs.CodeOf(err) != "DISK_SIZE_INVALID" {
			t.Errorf("%d bytes: got %v", size, err)
		}
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Disks{}).Create(t.Context(), path, 64<<20); !errdefs.Is(err, errdefs.Conflict) {
		t.Errorf("existing file: got %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("existing file became %q, %v", b, err)
	}
	if err := (Disks{}).Create(t.Context(), filepath.Join(dir, "none", "disk"), 64<<20); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing folder: got %v", err)
	}
}

func TestWriterFailsAtEachStep(t *testing.T) {
	build := func(f file) error {
		w, err := newWriter(f, Options{})
		if err != nil {
			return err
		}
		content := pattern(600 << 10)
		d, err := w.Store(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return err
		}
		gone, err := w.Store(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return err
		}
		kept, err := w.Store(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return err
		}
		w.Discard(gone)
		root := NewDir(0o755, time.Time{})
		for _, name := range names(3000, 100) {
			root.Children[name] = &Node{Mode: TypeRegular}
		}
		root.Children["a"], root.Children["b"] = &Node{Mode: TypeRegular, Data: d}, &Node{Mode: TypeRegular, Data: kept}
		_, err = w.Finish(root)
		return err
	}
	for failAt := 1; ; failAt++ {
		inner, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		f := &faultFile{file: osFile{inner}, failAt: failAt, err: syscall.ENOSPC}
		err = build(f)
		inner.Close()
		if f.ops < failAt {
			if err != nil {
				t.Fatal(err)
			}
			if failAt < 15 {
				t.Errorf("only %d operations could fail", failAt-1)
			}
			return
		}
		if !errdefs.Is(err, errdefs.Exhausted) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("operation %d: got %v", failAt, err)
		}
	}
}
