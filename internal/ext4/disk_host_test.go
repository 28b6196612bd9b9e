//go:build host

package ext4

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

var diskSizes = []int64{
	8 << 20, 8<<20 + 5000, 64 << 20, 128<<20 + 4096, 128<<20 + 3<<20, 1 << 30, 2<<30 - 4096, 10 << 30,
	100 << 30, 1 << 40,
}

func newTestDisk(t testing.TB, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.ext4")
	if err := (Disks{}).Create(context.Background(), path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func allocated(t testing.TB, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

func TestDiskClean(t *testing.T) {
	for _, size := range diskSizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			path := newTestDisk(t, size)
			t.Logf("allocated %d KiB", allocated(t, path)>>10)
			fsck(t, path)
			t.Log(run(t, "dumpe2fs", "-h", path))
			dir, unmount := mount(t, path, "rw")
			if err := os.WriteFile(filepath.Join(dir, "x"), []byte(strings.Repeat("x", 1<<20)), 0o600); err != nil {
				t.Fatal(err)
			}
			unmount()
			fsck(t, path)
			t.Logf("allocated %d KiB after use", allocated(t, path)>>10)
		})
	}
}
