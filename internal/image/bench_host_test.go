//go:build host

package image

import (
	"archive/tar"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// debianLayout returns an OCI layout of a minimal Debian as one layer.
func debianLayout(tb testing.TB, compress func(testing.TB, []byte) []byte) string {
	tb.Helper()
	plain, err := os.ReadFile(imagetest.Debian(tb))
	if err != nil {
		tb.Fatal(err)
	}
	dir := imagetest.Layout(tb, tb.TempDir(), compress(tb, plain))
	nameLatest(tb, dir)
	return dir
}

// classic is skopeo copy, umoci unpack and mkfs.ext4 -d, as one would do it by
// hand. It returns the seconds it took.
func classic(tb testing.TB, layout string) float64 {
	tb.Helper()
	dir := tb.TempDir()
	base := filepath.Join(dir, "base.ext4")
	start := time.Now()
	imagetest.Run(tb, "skopeo", "copy", "--quiet", "oci:"+layout+":latest", "oci:"+dir+"/copy:latest")
	imagetest.Run(tb, "umoci", "unpack", "--image", dir+"/copy:latest", dir+"/bundle")
	imagetest.Run(tb, "truncate", "-s", "2G", base)
	imagetest.Run(tb, "mkfs.ext4", "-q", "-F", "-d", dir+"/bundle/rootfs", base)
	f, err := os.Open(base)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil { // ours is synced too
		tb.Fatal(err)
	}
	took := time.Since(start).Seconds()
	if err := os.RemoveAll(dir); err != nil {
		tb.Fatal(err)
	}
	return took
}

// BenchmarkConversion prints how many times faster than the classic way a
// Debian root filesystem with a gzip layer is converted, and the peak memory of
// the process that does it.
func BenchmarkConversion(b *testing.B) {
	layout := debianLayout(b, imagetest.Gzip)
	var ours, theirs, peak float64
	for b.Loop() {
		theirs += classic(b, layout)
		seconds, rss := measure(b, layout)
		ours += seconds
		peak = max(peak, rss)
	}
	n := float64(b.N)
	b.ReportMetric(theirs/ours, "times-faster")
	b.ReportMetric(ours/n, "s/convert")
	b.ReportMetric(theirs/n, "s/classic")
	b.ReportMetric(peak, "peak-MiB")
}

// BenchmarkConversionLimits prints the peak memory of images that are made to
// take as much of it as Limits allow. The figures are in the comment there.
func BenchmarkConversionLimits(b *testing.B) {
	limits := Options{}.withDefaults().Limits
	for _, tc := range []struct {
		name string
		make func(tb testing.TB, path string)
	}{
		{"debian in zstd", func(tb testing.TB, path string) {
			if err := os.Symlink(debianLayout(tb, imagetest.Zstd), path); err != nil {
				tb.Fatal(err)
			}
		}},
		{"files", func(tb testing.TB, path string) {
			writeRootfs(tb, path, int(limits.Entries)*98/100, func(i int) *tar.Header {
				return &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("usr/lib/node_modules/%d/dist/module-%d.js", i/100, i)}
			})
		}},
		{"directories", func(tb testing.TB, path string) {
			writeRootfs(tb, path, int(limits.Entries)*98/100, func(i int) *tar.Header {
				return &tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("%d/%d/%d/", i/10000, i/100, i)}
			})
		}},
		{"attributes", func(tb testing.TB, path string) {
			writeRootfs(tb, path, int(limits.MetadataBytes)/640, func(i int) *tar.Header {
				return &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(i), PAXRecords: map[string]string{"SCHILY.xattr.user.note": fmt.Sprintf("%100d", i)}}
			})
		}},
		{"windows", zstdWindows},
	} {
		b.Run(tc.name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "image")
			tc.make(b, path)
			for b.Loop() {
				seconds, peak := measure(b, path)
				b.ReportMetric(seconds, "s/convert")
				b.ReportMetric(peak, "peak-MiB")
			}
		})
	}
}

// writeRootfs writes a root filesystem of n entries to path.
func writeRootfs(tb testing.TB, path string, n int, entry func(i int) *tar.Header) {
	tb.Helper()
	f, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	zw := gzip.NewWriter(f)
	tw := tar.NewWriter(zw)
	for i := range n {
		h := entry(i)
		h.Mode, h.ModTime = 0o755, imagetest.Epoch.Truncate(time.Second)
		if err := tw.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		tb.Fatal(err)
	}
}

// zstdWindows writes a layout of six layers with the largest windows at path.
func zstdWindows(tb testing.TB, path string) {
	tb.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithWindowSize(32<<20), zstd.WithSingleSegment(false))
	if err != nil {
		tb.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{2})
	var layers [][]byte
	for i := range 6 {
		body := make([]byte, 48<<20)
		if _, err := random.Read(body); err != nil {
			tb.Fatal(err)
		}
		layers = append(layers, w.EncodeAll(imagetest.Tar(tb, imagetest.File(fmt.Sprint(i), string(body))), nil))
	}
	imagetest.Layout(tb, path, layers...)
}

// measure imports an image in a process of its own.
func measure(tb testing.TB, image string) (seconds, peakMiB float64) {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), importInChild+"="+image)
	cmd.Stderr = tb.Output()
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("import in a child: %v", err)
	}
	var peakKiB float64
	if _, err := fmt.Sscan(string(out), &seconds, &peakKiB); err != nil {
		tb.Fatalf("child says %q: %v", out, err)
	}
	return seconds, peakKiB / 1024
}
