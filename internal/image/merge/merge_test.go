package merge_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"archive/tar"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/ext4"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/merge"
)

// memory keeps the content of files.
type memory struct {
	mu      sync.Mutex
	content map[*ext4.Data]string
}

func (m *memory) Store(r io.Reader, size int64) (*ext4.Data, error) {
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	d := new(ext4.Data)
	m.content[d] = string(b)
	return d, nil
}

func quota() *layer.Quota {
	return &layer.Quota{MaxBytes: 1 << 24, MaxEntries: 5000, MaxDepth: 64, MaxXattrBytes: 4000, MaxMetadata: 1 << 20}
}

// merged reads and merges archives, and lists what comes of them: one line for
// each file.
func merged(ctx context.Context, archives ...[]byte) ([]string, error) {
	m := &memory{content: make(map[*ext4.Data]string)}
	q := quota()
	tree := merge.New(q)
	for _, b := range archives {
		src := layer.Source{Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(b)), nil
		}}
		l, err := layer.Read(ctx, src, m, q)
		if err != nil {
			return nil, err
		}
		if err := tree.Apply(ctx, l); err != nil {
			return nil, err
		}
	}
	links := make(map[*ext4.Node]string)
	return m.list(nil, "/", tree.Finish(), links), nil
}

func (m *memory) list(lines []string, path string, n *ext4.Node, links map[*ext4.Node]string) []string {
	line := fmt.Sprintf("%s %06o %d:%d", path, n.Mode, n.UID, n.GID)
	if !n.ModTime.Equal(imagetest.Epoch) {
		line += " @" + n.ModTime.UTC().Format(time.RFC3339Nano)
	}
	switch n.Mode & ext4.TypeMask {
	case ext4.TypeRegular:
		line += fmt.Sprintf(" %q", m.content[n.Data])
	case ext4.TypeSymlink:
		line += " -> " + n.Target
	case ext4.TypeChar, ext4.TypeBlock:
		line += fmt.Sprintf(" %d,%d", n.Major, n.Minor)
	}
	for _, name := range slices.Sorted(maps.Keys(n.Xattrs)) {
		line += fmt.Sprintf(" %s=%q", name, n.Xattrs[name])
	}
	if first, ok := links[n]; ok {
		line = path + " = " + first
	}
	links[n] = path
	lines = append(lines, line)
	for _, name := range slices.Sorted(maps.Keys(n.Children)) {
		lines = m.list(lines, strings.TrimSuffix(path, "/")+"/"+name, n.Children[name], links)
	}
	return lines
}

const root = "/ 040755 0:0 @1970-01-01T00:00:00Z"

type entry = imagetest.Entry

func header(h tar.Header) entry { return entry{Header: h} }

var (
	dir, file, symlink, link = imagetest.Dir, imagetest.File, imagetest.Symlink, imagetest.Link
	whiteout, opaque         = imagetest.Whiteout, imagetest.Opaque
)

func TestMerge(t *testing.T) {
	early := time.Date(1935, 1, 1, 0, 0, 0, 5, time.UTC)
	for _, tc := range []struct {
		name   string
		layers [][]entry
		want   []string // after the root
	}{
		{"nothing", nil, nil},
		{"all types and metadata", [][]entry{{
			header(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o1777, Uid: 1, Gid: 2}),
			header(tar.Header{Typeflag: tar.TypeReg, Name: "d/suid", Mode: 0o4755, Uid: 3, Gid: 4_000_000_000}),
			header(tar.Header{Typeflag: tar.TypeChar, Name: "d/null", Mode: 0o666, Devmajor: 1, Devminor: 3}),
			header(tar.Header{Typeflag: tar.TypeBlock, Name: "d/sda", Mode: 0o660, Devmajor: 8, Devminor: 300}),
			header(tar.Header{Typeflag: tar.TypeFifo, Name: "d/pipe", Mode: 0o600}),
			symlink("d/link", "/../nowhere"),
			header(tar.Header{Typeflag: tar.TypeReg, Name: "d/old", Mode: 0, ModTime: early}),
		}}, []string{
			"/d 041777 1:2", `/d/link 120777 0:0 -> /../nowhere`, "/d/null 020666 0:0 1,3",
			`/d/old 100000 0:0 @1935-01-01T00:00:00.000000005Z ""`,
			"/d/pipe 010600 0:0", "/d/sda 060660 0:0 8,300", `/d/suid 104755 3:4000000000 ""`,
		}},
		{"names", [][]entry{{
			file("./a", "1"), file("/b", "2"), file("c//d/./e", "3"),
			file("bad\xff\xfename", "4"), file(strings.Repeat("n", 255)+"/"+strings.Repeat("m", 200), "5"),
		}}, []string{
			`/a 100644 0:0 "1"`, `/b 100644 0:0 "2"`, "/bad\xff\xfename 100644 0:0 \"4\"",
			"/c 040755 0:0 @1970-01-01T00:00:00Z", "/c/d 040755 0:0 @1970-01-01T00:00:00Z", `/c/d/e 100644 0:0 "3"`,
			"/" + strings.Repeat("n", 255) + " 040755 0:0 @1970-01-01T00:00:00Z",
			"/" + strings.Repeat("n", 255) + "/" + strings.Repeat("m", 200) + ` 100644 0:0 "5"`,
		}},
		{"whiteout", [][]entry{
			{dir("d"), file("d/a", "1"), file("d/b", "2"), file("e", "3")},
			{whiteout("d", "a"), whiteout("", "e"), whiteout("none", "x")},
		}, []string{"/d 040755 0:0", `/d/b 100644 0:0 "2"`}},
		{"whiteout of a directory", [][]entry{
			{dir("d"), dir("d/s"), file("d/s/a", "1")},
			{whiteout("", "d")},
		}, nil},
		{"whiteout after the own file", [][]entry{
			{file("a", "old")},
			{file("a", "new"), whiteout("", "a")},
		}, []string{`/a 100644 0:0 "new"`}},
		{"whiteout of a directory that is made anew before", [][]entry{
			{dir("d"), file("d/old", "1")},
			{file("d/new", "2"), whiteout("", "d")},
		}, []string{"/d 040755 0:0", `/d/new 100644 0:0 "2"`}},
		{"whiteout of implicit directories", [][]entry{
			{file("a/b/c/lower", "1")},
			{file("a/b/x/y/upper", "2"), whiteout("", "a")},
		}, []string{
			"/a 040755 0:0 @1970-01-01T00:00:00Z", "/a/b 040755 0:0 @1970-01-01T00:00:00Z",
			"/a/b/x 040755 0:0 @1970-01-01T00:00:00Z", "/a/b/x/y 040755 0:0 @1970-01-01T00:00:00Z",
			`/a/b/x/y/upper 100644 0:0 "2"`,
		}},
		{"opaque directory", [][]entry{
			{dir("d"), file("d/a", "1"), dir("d/s"), file("d/s/b", "2"), file("e", "3")},
			{file("d/new", "4"), opaque("d"), file("d/s/c", "5")},
		}, []string{
			"/d 040755 0:0", `/d/new 100644 0:0 "4"`,
			"/d/s 040755 0:0 @1970-01-01T00:00:00Z", `/d/s/c 100644 0:0 "5"`, `/e 100644 0:0 "3"`,
		}},
		{"opaque root", [][]entry{
			{file("a", "1"), dir("d")},
			{opaque(""), file("b", "2")},
		}, []string{`/b 100644 0:0 "2"`}},
		{"marks of aufs", [][]entry{
			{dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", ""), file("a", "1")},
		}, []string{`/a 100644 0:0 "1"`}},
		{"change of type", [][]entry{
			{file("a", "1"), dir("b"), file("b/x", "2"), symlink("c", "a"), dir("d"), file("d/y", "3")},
			{dir("a"), file("a/z", "4"), file("b", "5"), dir("c"), symlink("d", "a")},
		}, []string{
			"/a 040755 0:0", `/a/z 100644 0:0 "4"`, `/b 100644 0:0 "5"`, "/c 040755 0:0", "/d 120777 0:0 -> a",
		}},
		{"directory over directory", [][]entry{
			{dir("d"), file("d/a", "1")},
			{header(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o700, Uid: 7})},
		}, []string{"/d 040700 7:0", `/d/a 100644 0:0 "1"`}},
		{"twice in one layer", [][]entry{
			{file("a", "1"), file("a", "2"), dir("b"), file("b/x", "3"), file("b", "4")},
		}, []string{`/a 100644 0:0 "2"`, `/b 100644 0:0 "4"`}},
		{"through symbolic links", [][]entry{
			{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib"), symlink("abs", "/usr/../lib"), symlink("up", "../../.."), symlink("loose", "made/here")},
			{file("lib/a", "1"), file("abs/b", "2"), file("up/c", "3"), file("loose/d", "4")},
		}, []string{
			"/abs 120777 0:0 -> /usr/../lib", `/c 100644 0:0 "3"`, "/lib 120777 0:0 -> usr/lib",
			"/loose 120777 0:0 -> made/here", "/made 040755 0:0 @1970-01-01T00:00:00Z",
			"/made/here 040755 0:0 @1970-01-01T00:00:00Z", `/made/here/d 100644 0:0 "4"`,
			"/up 120777 0:0 -> ../../..", "/usr 040755 0:0", "/usr/lib 040755 0:0",
			`/usr/lib/a 100644 0:0 "1"`, `/usr/lib/b 100644 0:0 "2"`,
		}},
		{"whiteout through a symbolic link", [][]entry{
			{dir("usr"), file("usr/a", "1"), symlink("u", "usr")},
			{whiteout("u", "a")},
		}, []string{"/u 120777 0:0 -> usr", "/usr 040755 0:0"}},
		{"hard links", [][]entry{
			{file("a", "1"), link("b", "a"), link("c", "./b"), symlink("s", "a"), link("t", "s")},
		}, []string{`/a 100644 0:0 "1"`, "/b = /a", "/c = /b", "/s 120777 0:0 -> a", "/t = /s"}},
		{"hard link to a lower layer", [][]entry{
			{file("a", "1")},
			{link("b", "a")},
		}, []string{`/a 100644 0:0 "1"`, "/b = /a"}},
		{"hard link outlives its first name", [][]entry{
			{file("a", "1"), link("b", "a")},
			{whiteout("", "a")},
			{file("a", "2")},
		}, []string{`/a 100644 0:0 "2"`, `/b 100644 0:0 "1"`}},
		{"hard link to what is replaced later", [][]entry{
			{file("a", "1")},
			{link("b", "a"), file("a", "2")},
		}, []string{`/a 100644 0:0 "2"`, `/b 100644 0:0 "1"`}},
		{"root", [][]entry{
			{header(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o750, Uid: 5})},
		}, []string{"/ 040750 5:0"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var archives [][]byte
			for _, l := range tc.layers {
				archives = append(archives, imagetest.Tar(t, l...))
			}
			got, err := merged(t.Context(), archives...)
			if err != nil {
				t.Fatal(err)
			}
			want := append([]string{root}, tc.want...)
			if tc.name == "root" {
				want = tc.want
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("tree (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeXattrs(t *testing.T) {
	got, err := merged(t.Context(), imagetest.Tar(t, header(tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{
		"SCHILY.xattr.security.capability":        "\x01\x00\xff",
		"SCHILY.xattr.user.x":                     "star",
		"SCHILY.xattr.security.selinux":           "host",
		"SCHILY.xattr.trusted.overlay.opaque":     "y",
		"SCHILY.xattr.com.apple.quarantine":       "mac",
		"LIBARCHIVE.xattr.user.x":                 "bGli",
		"LIBARCHIVE.xattr.user.with%20space%2525": "bGli",
	}})))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{root, `/a 100000 0:0 "" security.capability="\x01\x00\xff" user.with space%25="lib" user.x="star"`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree (-want +got):\n%s", diff)
	}
}
