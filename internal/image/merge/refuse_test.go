package merge_test

import (
	"archive/tar"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// many returns n files, each below fifty directories that no entry describes.
func many(n int, dir string) []entry {
	list := make([]entry, n)
	for i := range list {
		list[i] = file(fmt.Sprintf("%d/%sf", i, strings.Repeat(dir, 50)), "")
	}
	return list
}

func TestMergeRefuses(t *testing.T) {
	deep := strings.Repeat("d/", 65) + "f"
	loop := []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}
	for _, tc := range []struct {
		name   string
		layers [][]entry
		code   string
	}{
		{"climbing name", [][]entry{{file("a/../../etc/passwd", "")}}, "IMAGE_CORRUPT"},
		{"climbing hard link", [][]entry{{link("a", "../etc/shadow")}}, "IMAGE_CORRUPT"},
		{"hard link to nothing", [][]entry{{link("a", "b")}}, "IMAGE_CORRUPT"},
		{"hard link to itself", [][]entry{{file("a", ""), link("a", "a")}}, "IMAGE_CORRUPT"},
		{"hard link to a directory", [][]entry{{dir("d"), link("a", "d")}}, "IMAGE_CORRUPT"},
		{"file as a parent", [][]entry{{file("a", "")}, {file("a/b", "")}}, "IMAGE_CORRUPT"},
		{"file as the root", [][]entry{{file(".", "")}}, "IMAGE_CORRUPT"},
		{"symbolic link as the root", [][]entry{{symlink("/", "etc")}}, "IMAGE_CORRUPT"},
		{"whiteout of nothing", [][]entry{{file("a/.wh.", "")}}, "IMAGE_CORRUPT"},
		{"whiteout of the directory", [][]entry{{file("a/.wh..", "")}}, "IMAGE_CORRUPT"},
		{"whiteout of the parent", [][]entry{{file("a/.wh...", "")}}, "IMAGE_CORRUPT"},
		{"implicit directories", [][]entry{many(200, "d/")}, "IMAGE_TOO_MANY_ENTRIES"},
		{"endless links", [][]entry{loop}, "IMAGE_CORRUPT"},
		{"long name", [][]entry{{file(strings.Repeat("n", 256), "")}}, "IMAGE_CORRUPT"},
		{"long path", [][]entry{{file(strings.Repeat(strings.Repeat("n", 99)+"/", 41)+"f", "")}}, "IMAGE_CORRUPT"},
		{"deep path", [][]entry{{file(deep, "")}}, "IMAGE_PATH_TOO_DEEP"},
		{"deep path through a link", [][]entry{
			{file(strings.Repeat("d/", 40)+"f", ""), symlink("s", strings.Repeat("d/", 40))},
			{file("s/"+strings.Repeat("e/", 30)+"f", "")},
		}, "IMAGE_PATH_TOO_DEEP"},
		{"big attributes", [][]entry{{header(tar.Header{Typeflag: tar.TypeReg, Name: "a", PAXRecords: map[string]string{
			"SCHILY.xattr.user.big": strings.Repeat("x", 4000),
		}})}}, "IMAGE_XATTRS_TOO_LARGE"},
		{"device that cannot be", [][]entry{{header(tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1 << 13, Format: tar.FormatGNU, ModTime: time.Unix(0, 0)})}}, "IMAGE_CORRUPT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var archives [][]byte
			for _, l := range tc.layers {
				archives = append(archives, imagetest.Tar(t, l...))
			}
			got, err := merged(t.Context(), archives...)
			if code := errdefs.CodeOf(err); code != tc.code {
				t.Errorf("got %v (%s), want %s; tree %q", err, code, tc.code, got)
			}
		})
	}
}
