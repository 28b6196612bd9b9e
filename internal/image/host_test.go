//go:build host

package image

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// requireSameAsUmoci imports an OCI layout, mounts the base, and compares it
// with what umoci unpacks. The times of the files in except are ours to choose:
// no layer has them.
func requireSameAsUmoci(t *testing.T, layout, tag string, except ...string) {
	t.Helper()
	s := openStore(t, nil)
	image, err := s.ImportPath(t.Context(), layout, ImportRequest{Name: "compared:1"})
	if err != nil {
		t.Fatal(err)
	}
	imagetest.Run(t, "e2fsck", "-fn", image.BasePath)
	got := imagetest.Inventory(t, imagetest.Mount(t, image.BasePath))
	want := imagetest.Inventory(t, imagetest.Unpack(t, layout, tag))
	for _, name := range except {
		got[name], want[name] = withoutTime(got[name]), withoutTime(want[name])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("base differs (-umoci +ours):\n%s", diff)
	}
	t.Logf("%d files are the same", len(got))
}

// withoutTime cuts the modification time from a line of an inventory.
func withoutTime(line string) string {
	before, after, _ := strings.Cut(line, ", ")
	_, after, _ = strings.Cut(after+" ", " ")
	return before + ", " + after
}

// layoutOf writes layers as a layout that umoci takes.
func layoutOf(t *testing.T, layers ...[]byte) string {
	t.Helper()
	dir := imagetest.Layout(t, t.TempDir(), layers...)
	nameLatest(t, dir)
	return dir
}

// nameLatest gives the image of a layout the tag that tools ask for.
func nameLatest(tb testing.TB, dir string) {
	tb.Helper()
	index := filepath.Join(dir, "index.json")
	b, err := os.ReadFile(index)
	if err != nil {
		tb.Fatal(err)
	}
	named := strings.Replace(string(b), `"digest":`, `"annotations":{"org.opencontainers.image.ref.name":"latest"},"digest":`, 1)
	if err := os.WriteFile(index, []byte(named), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// TestHostCraftedLayers compares every case of merging with umoci.
func TestHostCraftedLayers(t *testing.T) {
	file, dir, link, symlink := imagetest.File, imagetest.Dir, imagetest.Link, imagetest.Symlink
	header := func(h tar.Header) imagetest.Entry { return imagetest.Entry{Header: h} }
	lower := imagetest.Tar(t,
		header(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755}),
		dir("etc"), file("etc/passwd", "root"), file("etc/gone", "x"),
		dir("tree"), dir("tree/sub"), file("tree/sub/a", "1"), file("tree/b", "2"),
		dir("opaque"), file("opaque/old", "1"), dir("opaque/both"), file("opaque/both/old", "2"),
		file("first", "linked"), link("second", "first"), link("third", "second"),
		file("change1", "file"), dir("change2"), file("change2/x", "y"), symlink("change3", "etc"),
		dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), symlink("absolute", "/usr/lib"),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o6755, Uid: 12, Gid: 3_000_000_000}),
		header(tar.Header{Typeflag: tar.TypeDir, Name: "sticky", Mode: 0o3777, Uid: 5, Gid: 6}),
		header(tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}),
		header(tar.Header{Typeflag: tar.TypeBlock, Name: "loop", Mode: 0o660, Devmajor: 7, Devminor: 300}),
		header(tar.Header{Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600}),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "capable", Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.user.note":           "a \x00 b",
		}}),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "y1935", Mode: 0o644, ModTime: time.Date(1935, 5, 5, 5, 5, 5, 123456789, time.UTC)}),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "y2100", Mode: 0o644, ModTime: time.Date(2100, 5, 5, 5, 5, 5, 999999999, time.UTC)}),
		header(tar.Header{Typeflag: tar.TypeReg, Name: "y1901", Mode: 0o644, ModTime: time.Date(1901, 12, 14, 0, 0, 0, 0, time.UTC)}),
		file("bad\xff\xfename", "latin1"), symlink("badlink", "to\xff"),
		file(strings.Repeat("long/", 30)+strings.Repeat("n", 200), "deep"),
		file("big", strings.Repeat("0123456789abcdef", 1<<16)),
		file("holes", strings.Repeat("\x00", 1<<20)+"end"),
		symlink("longlink", strings.Repeat("t", 1000)),
	)
	upper := imagetest.Tar(t,
		imagetest.Whiteout("etc", "gone"), imagetest.Whiteout("", "first"),
		imagetest.Whiteout("tree", "sub"), file("tree/new", "3"),
		imagetest.Opaque("opaque"), file("opaque/both/new", "4"), file("opaque/new", "5"),
		dir("change1"), file("change1/now", "a directory"), file("change2", "now a file"), dir("change3"),
		file("lib/through", "6"), file("absolute/through2", "7"), link("fourth", "third"),
		header(tar.Header{Typeflag: tar.TypeDir, Name: "sticky", Mode: 0o700}),
		file("./dot", "8"), file("/slash", "9"), file("twice", "a"), file("twice", "b"),
	)
	// Directories that no layer describes, and those in which umoci removed
	// something and set no time afterwards.
	except := []string{"long", "opaque/both", ".", "opaque"}
	for path := "long"; len(path) < 30*5; path += "/long" {
		except = append(except, path)
	}
	for _, tc := range []struct {
		name   string
		layers [][]byte
	}{
		{"plain", [][]byte{lower, upper}},
		{"gzip", [][]byte{imagetest.Gzip(t, lower), imagetest.Gzip(t, upper)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			requireSameAsUmoci(t, layoutOf(t, tc.layers...), "latest", except...)
		})
	}
}
