//go:build host

package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// debianLayout returns an OCI layout of a minimal Debian as one gzip layer.
func debianLayout(tb testing.TB) string {
	tb.Helper()
	plain, err := os.ReadFile(imagetest.Debian(tb))
	if err != nil {
		tb.Fatal(err)
	}
	dir := imagetest.Layout(tb, tb.TempDir(), imagetest.Gzip(tb, plain))
	nameLatest(tb, dir)
	return dir
}

// importInChild is run in a process of its own by BenchmarkHostConvert.
const importInChild = "HYPERFLEET_TEST_IMPORT"

// TestMain makes the test binary convert one layout, and report the memory it
// took, where the benchmark asks for that.
func TestMain(m *testing.M) {
	layout := os.Getenv(importInChild)
	if layout == "" {
		os.Exit(m.Run())
	}
	if err := convertAndReport(layout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func convertAndReport(layout string) error {
	dir, err := os.MkdirTemp("", "convert-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	start := time.Now()
	if _, err := s.ImportPath(context.Background(), layout, ImportRequest{Name: "debian"}); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	// Not getrusage(2): its figure begins with that of the parent.
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(took, strings.Fields(peak)[0])
	return nil
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

// BenchmarkHostConvert prints how many times faster than the classic way a
// Debian root filesystem with a gzip layer is converted, and the peak memory of
// the process that does it.
func BenchmarkHostConvert(b *testing.B) {
	layout := debianLayout(b)
	var ours, theirs, peak float64
	for b.Loop() {
		theirs += classic(b, layout)
		seconds, rss := convertInChild(b, layout)
		ours += seconds
		peak = max(peak, rss)
	}
	n := float64(b.N)
	b.ReportMetric(theirs/ours, "times-faster")
	b.ReportMetric(ours/n, "s/convert")
	b.ReportMetric(theirs/n, "s/classic")
	b.ReportMetric(peak, "peak-MiB")
}

func convertInChild(tb testing.TB, layout string) (seconds, peakMiB float64) {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), importInChild+"="+layout)
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("convert in a child: %v", err)
	}
	var peakKiB float64
	if _, err := fmt.Sscan(string(out), &seconds, &peakKiB); err != nil {
		tb.Fatalf("child says %q: %v", out, err)
	}
	return seconds, peakKiB / 1024
}
