//go:build host

package ext4

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func newTestDisk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.ext4")
	if err := (Disks{}).Create(t.Context(), path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

// allocated returns the bytes that a file takes on the host's disk.
func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestDiskSizes(t *testing.T) {
	for _, test := range []struct {
		size      int64
		allocated int64 // at most
		journal   string
	}{
		{8 << 20, 128 << 10, "4096k"},
		{8<<20 + 5000, 128 << 10, "4096k"},
		{64 << 20, 128 << 10, "4096k"},
		{128<<20 + 4096, 128 << 10, "16M"},  // the last group is too small
		{128<<20 + 3<<20, 128 << 10, "16M"}, // and here just large enough
		{1 << 30, 128 << 10, "32M"},
		{10 << 30, 128 << 10, "64M"},
		{100 << 30, 512 << 10, "512M"},
		{1 << 40, 2 << 20, "1024M"},
	} {
		t.Run(fmt.Sprint(test.size), func(t *testing.T) {
			path := newTestDisk(t, test.size)
			if got := allocated(t, path); got > test.allocated {
				t.Errorf("%d KiB are allocated", got>>10)
			}
			fsck(t, path)
			out := run(t, "dumpe2fs", "-h", path)
			if !strings.Contains(out, "Total journal size:       "+test.journal+"\n") {
				t.Errorf("journal is not of %s:\n%s", test.journal, out)
			}
			useDisk(t, path)
			fsck(t, path)
			if got := allocated(t, path); got > test.allocated+8<<20 {
				t.Errorf("%d KiB are allocated after little use", got>>10)
			}
		})
	}
}

// The largest is only mounted: a check takes a minute.
func TestDiskLargest(t *testing.T) {
	path := newTestDisk(t, MaxDiskSize-blockSize) // ext4 hosts have no larger files
	if got := allocated(t, path); got > 20<<20 {
		t.Errorf("%d KiB are allocated", got>>10)
	}
	useDisk(t, path)
}

// useDisk writes and reads one file, across two mounts.
func useDisk(t testing.TB, path string) {
	t.Helper()
	dir, unmount := mount(t, path, "rw,init_itable=0")
	content := pattern(1 << 20)
	if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	unmount()
	dir, unmount = mount(t, path, "rw")
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("file is not what was written: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "lost+found")); err != nil {
		t.Error(err)
	}
	unmount()
}

// The kernel's background initialization of inode tables has nothing to do.
func TestDiskNeedsNoLazyInit(t *testing.T) {
	path := newTestDisk(t, 20<<30)
	out := run(t, "dumpe2fs", path)
	if groups, zeroed := strings.Count(out, ": (Blocks "), strings.Count(out, "ITABLE_ZEROED"); groups != 160 || zeroed != groups {
		t.Errorf("%d of %d groups are marked as zeroed", zeroed, groups)
	}
}

func TestDiskStress(t *testing.T) {
	for _, test := range []struct {
		size int64
		dirs int // of 1000 files each
		big  int // MiB
	}{{64 << 20, 2, 30}, {1 << 30, 10, 600}, {10 << 30, 50, 1500}} {
		t.Run(fmt.Sprint(test.size), func(t *testing.T) {
			path := newTestDisk(t, test.size)
			dir, unmount := mount(t, path, "rw")
			for d := range test.dirs {
				fillDir(t, filepath.Join(dir, fmt.Sprint("dir", d)), 1000)
			}
			writeBig(t, filepath.Join(dir, "big"), test.big)
			unmount()
			fsck(t, path)

			dir, unmount = mount(t, path, "rw")
			for d := 0; d < test.dirs; d += 2 {
				if err := os.RemoveAll(filepath.Join(dir, fmt.Sprint("dir", d))); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Remove(filepath.Join(dir, "big")); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(filepath.Join(dir, "dir1"))
			if err != nil || len(entries) != 1000 {
				t.Errorf("%d entries, %v", len(entries), err)
			}
			unmount()
			fsck(t, path)
		})
	}
}

// fillDir makes a directory of small files.
func fillDir(t testing.TB, dir string, count int) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range count {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), []byte{byte(i)}, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func writeBig(t testing.TB, path string, mib int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content := pattern(1 << 20)
	for range mib {
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk can be written until it is full.
func TestDiskFills(t *testing.T) {
	path := newTestDisk(t, 300<<20)
	dir, unmount := mount(t, path, "rw")
	written := 0
	for i := 0; ; i++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), pattern(1<<20), 0o600)
		if err != nil {
			break
		}
		written++
	}
	if written < 260 {
		t.Errorf("only %d MiB fit", written)
	}
	unmount()
	fsck(t, path)
}

// A disk whose machine died is repaired by its journal.
func TestDiskSurvivesCrash(t *testing.T) {
	path := newTestDisk(t, 64<<20)
	dir, unmount := mount(t, path, "rw")
	for i := range 500 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), pattern(5000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	crashed := filepath.Join(t.TempDir(), "crashed")
	run(t, "cp", "--sparse=always", path, crashed)
	unmount()
	dir, unmount = mount(t, crashed, "rw")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 501 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	unmount()
	fsck(t, crashed)
}

// The copy of the superblock in the second group can replace the first.
func TestDiskRepairFromCopy(t *testing.T) {
	path := newTestDisk(t, 1<<30)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, 2*blockSize), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	start := time.Now()
	run(t, "sh", "-c", `e2fsck -fy -b 32768 -B 4096 "$0"; [ $? -le 1 ]`, path)
	t.Logf("repaired in %v", time.Since(start))
	fsck(t, path)
	useDisk(t, path)
}
