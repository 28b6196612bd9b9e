package merge_test

import (
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// FuzzMerge gives two layers of any bytes to the reader and the merge: they end
// with a tree or an error with a code.
func FuzzMerge(f *testing.F) {
	f.Add(imagetest.Tar(f, dir("d"), file("d/a", "1"), link("b", "d/a"), symlink("s", "d")),
		imagetest.Tar(f, whiteout("d", "a"), opaque("s"), file("s/x", "2")))
	f.Add(imagetest.Gzip(f, imagetest.Tar(f, file("a", "1"))), imagetest.Zstd(f, imagetest.Tar(f, whiteout("", "a"))))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		_, err := merged(t.Context(), lower, upper)
		if err != nil && errdefs.Is(err, errdefs.Internal) {
			t.Errorf("error without a kind: %v", err)
		}
	})
}

// FuzzPaths puts any names through whiteouts, links and directories, and checks
// that the tree stays one: every name clean, none of a whiteout.
func FuzzPaths(f *testing.F) {
	f.Add("a/b", ".wh.b", "../x", "a/.wh..wh..opq")
	f.Add("./a//b", "a/.wh.", "/", "..")
	f.Fuzz(func(t *testing.T, first, second, target, third string) {
		entries := func(names ...string) (list []entry) {
			for i, name := range names {
				if name = strings.TrimRight(name, "/"); name == "" || target == "" || strings.ContainsRune(name+target, 0) {
					continue // the archive writer does not take it
				}
				list = append(list, []entry{file(name, "x"), symlink(name, target), dir(name), link(name, target)}[i%4])
			}
			return list
		}
		got, err := merged(t.Context(),
			imagetest.Tar(t, entries(first, second, third)...),
			imagetest.Tar(t, entries(third, first, second, third)...))
		if err != nil && errdefs.Is(err, errdefs.Internal) {
			t.Errorf("error without a kind: %v", err)
		}
		for _, line := range got {
			path, _, _ := strings.Cut(line, " ")
			if strings.Contains(path, "//") || strings.Contains(path+"/", "/../") {
				t.Errorf("tree has %q", line)
			}
		}
	})
}
