package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faultyDisk fails one call, or every call from it on, as if the machine had
// stopped there.
type faultyDisk struct {
	osDisk

	mu    sync.Mutex
	calls []string
	fail  int // which call; 0 means none
	crash bool
	err   error
}

func (d *faultyDisk) step(op string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, op)
	if n := len(d.calls); d.fail != 0 && (n == d.fail || d.crash && n > d.fail) {
		return fmt.Errorf("%s: %w", op, d.err)
	}
	return nil
}

func (d *faultyDisk) create(op, dir, pattern string) (*os.File, error) {
	if err := d.step("create: " + op); err != nil {
		return nil, err
	}
	return d.osDisk.create(op, dir, pattern)
}

func (d *faultyDisk) sync(op string, f *os.File) error {
	if err := d.step("sync: " + op); err != nil {
		return err
	}
	return d.osDisk.sync(op, f)
}

func (d *faultyDisk) rename(op, from, to string) error {
	if err := d.step("rename: " + op); err != nil {
		return err
	}
	return d.osDisk.rename(op, from, to)
}

func (d *faultyDisk) remove(op, path string) error {
	if err := d.step("remove: " + op); err != nil {
		return err
	}
	return d.osDisk.remove(op, path)
}

func openFaulty(t *testing.T, dir string, d *faultyDisk) *Store {
	t.Helper()
	s, err := open(Options{Dir: dir, RetryPause: time.Millisecond}, d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// steps returns the number of calls that a pull makes to the disk.
func (r *rig) steps(t *testing.T) int {
	t.Helper()
	d := &faultyDisk{}
	s := openFaulty(t, t.TempDir(), d)
	before := len(d.calls)
	if err := resolve(t, s, r.ref, nil); err != nil {
		t.Fatal(err)
	}
	if len(d.calls)-before < 8 {
		t.Fatalf("only %q", d.calls[before:])
	}
	return len(d.calls) - before
}

// TestPullFailsAtEachStep fails each call to the disk in turn, with a full disk:
// the error says so, no half image is left, and the next try works.
func TestPullFailsAtEachStep(t *testing.T) {
	r := newRig(t, nil)
	for i := range r.steps(t) {
		d := &faultyDisk{err: syscall.ENOSPC}
		s := openFaulty(t, t.TempDir(), d)
		d.fail = len(d.calls) + i + 1
		err := resolve(t, s, r.ref, nil)
		op := d.calls[d.fail-1]
		if err != nil {
			requireCode(t, err, "DISK_FULL")
		}
		for _, path := range s.list("base") {
			if strings.HasSuffix(path, ".json") && err != nil && len(s.images) == 0 {
				t.Errorf("%s: %s is left", op, path)
			}
		}
		d.mu.Lock()
		d.fail = 0
		d.mu.Unlock()
		if err := resolve(t, s, r.ref, nil); err != nil {
			t.Errorf("%s: next try: %v", op, err)
		}
	}
}

// TestCrashAtEachStep stops the disk for good at each call in turn, opens the
// store anew, and expects a whole image or none, and a pull that works.
func TestCrashAtEachStep(t *testing.T) {
	r := newRig(t, nil)
	for i := range r.steps(t) {
		dir := t.TempDir()
		d := &faultyDisk{err: errors.New("stopped"), crash: true}
		s := openFaulty(t, dir, d)
		d.fail = len(d.calls) + i + 1
		_ = resolve(t, s, r.ref, nil)
		op := d.calls[d.fail-1]
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStoreIn(t, dir, nil)
		bases, records := 0, 0
		for _, path := range s.list("base") {
			if strings.HasSuffix(path, ".json") {
				records++
			} else {
				bases++
			}
		}
		if bases != len(s.images) || records != len(s.images) || len(s.list("tmp")) > 0 {
			t.Errorf("%s: %d images, %d bases, %d records, %v", op, len(s.images), bases, records, s.list("tmp"))
		}
		if err := resolve(t, s, r.ref, nil); err != nil {
			t.Errorf("%s: pull after the crash: %v", op, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDeleteFailsAtEachStep leaves an image or none when removing is cut short.
func TestDeleteFailsAtEachStep(t *testing.T) {
	for i := range 3 {
		dir := t.TempDir()
		d := &faultyDisk{err: errors.New("stopped"), crash: true}
		s := openFaulty(t, dir, d)
		addImage(t, s, "a")
		d.fail = len(d.calls) + i + 1
		if err := s.Delete(t.Context(), "a"); err == nil {
			t.Errorf("step %d: no error", i)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStoreIn(t, dir, nil)
		if left := len(s.list("base")); left != 2*len(s.images) {
			t.Errorf("step %d: %d files for %d images", i, left, len(s.images))
		}
	}
}

// TestOpenDropsWhatIsNotWhole opens a store whose files were spoiled.
func TestOpenDropsWhatIsNotWhole(t *testing.T) {
	dir := t.TempDir()
	s := openStoreIn(t, dir, nil)
	short, bad, bare, good := addImage(t, s, "short"), addImage(t, s, "bad"), addImage(t, s, "bare"), addImage(t, s, "good")
	record := func(base string) string { return strings.TrimSuffix(base, ".ext4") + ".json" }
	for _, err := range []error{
		s.Close(),
		os.Chmod(short.BasePath, 0o600),
		os.Truncate(short.BasePath, 4096),
		os.WriteFile(record(bad.BasePath), []byte("{"), 0o600),
		os.Remove(record(bare.BasePath)),
		os.WriteFile(s.path("refs", "stray.json"), []byte("{}"), 0o600),
		os.WriteFile(s.path("base", "stray"), nil, 0o600),
		os.WriteFile(s.path("tmp", "stray"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openStoreIn(t, dir, nil)
	if got := names(t, s); got != "good" {
		t.Errorf("cache holds %q", got)
	}
	if left := append(append(s.list("base"), s.list("refs")...), s.list("tmp")...); len(left) != 3 {
		t.Errorf("left are %v", left)
	}
	if lease, err := s.Open(t.Context(), good.Digest); err != nil {
		t.Error(err)
	} else {
		lease.Release()
	}
}

// TestOldPartialsGo removes downloads that nobody came back for.
func TestOldPartialsGo(t *testing.T) {
	dir := t.TempDir()
	s := openStoreIn(t, dir, nil)
	old, fresh := s.path("ingest", "old.partial"), s.path("ingest", "fresh.partial")
	for _, path := range []string{old, fresh} {
		if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 4096), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-2*partialAge)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStoreIn(t, dir, nil)
	if left := s.list("ingest"); len(left) != 1 || left[0] != fresh {
		t.Errorf("left are %v", left)
	}
	addImage(t, s, "a")
	if _, freed, err := s.Prune(t.Context(), 0); err != nil || freed < 100<<10 {
		t.Errorf("prune freed %d, %v", freed, err)
	}
	if left := s.list("ingest"); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}
