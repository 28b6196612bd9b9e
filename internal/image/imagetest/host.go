package imagetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Mount mounts an ext4 file read-only and returns where. It takes root and a
// loop device; both end with the test.
func Mount(tb testing.TB, file string) string {
	tb.Helper()
	dir := tb.TempDir()
	Run(tb, "mount", "-t", "ext4", "-o", "ro,loop", file, dir)
	tb.Cleanup(func() { Run(tb, "umount", dir) })
	return dir
}

// Unpack unpacks the image that a layout calls tag with umoci, and returns the
// root filesystem's folder.
func Unpack(tb testing.TB, layout, tag string) string {
	tb.Helper()
	bundle := filepath.Join(tb.TempDir(), "bundle")
	Run(tb, "umoci", "unpack", "--image", layout+":"+tag, bundle)
	return filepath.Join(bundle, "rootfs")
}

// Debian returns the file name of an uncompressed tar archive of a minimal
// Debian 12, made by mmdebstrap from the host's package mirror, which takes a
// minute; HYPERFLEET_TEST_DEBIAN_TAR names one that is there already.
func Debian(tb testing.TB) string {
	tb.Helper()
	if file := os.Getenv("HYPERFLEET_TEST_DEBIAN_TAR"); file != "" {
		return file
	}
	file := filepath.Join(tb.TempDir(), "debian.tar")
	Run(tb, "mmdebstrap", "--quiet", "--variant=minbase", "bookworm", file)
	return file
}

// Run runs a program of the host and returns what it printed. Its failure, or
// its absence, is the test's.
func Run(tb testing.TB, name string, args ...string) string {
	tb.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
