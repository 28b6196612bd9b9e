package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func sampleImage(t *testing.T) v1.Image {
	t.Helper()
	return imagetest.Image(t, v1.Config{Cmd: []string{"/bin/sh"}, Env: []string{"A=b"}},
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("bin"), imagetest.File("bin/sh", "#!"))),
		imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("etc/x", "y"))))
}

// tarFolder returns a folder as an archive.
func tarFolder(t *testing.T, dir string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func dockerSave(t *testing.T, img v1.Image, tag string) []byte {
	t.Helper()
	ref, err := name.NewTag(tag)
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := tarball.Write(ref, img, &buf); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestImportKinds(t *testing.T) {
	img := sampleImage(t)
	layout := imagetest.LayoutOf(t, t.TempDir(), img)
	rootfs := imagetest.Tar(t, imagetest.Dir("bin"), imagetest.File("bin/sh", "#!"), imagetest.File("manifest.json", "[]"))
	for _, tc := range []struct {
		name   string
		data   []byte
		digest string // "" where the archive has no manifest
		cmd    bool
	}{
		{"OCI layout", tarFolder(t, layout), imagetest.Digest(t, img), true},
		{"OCI layout with gzip", imagetest.Gzip(t, tarFolder(t, layout)), imagetest.Digest(t, img), true},
		{"docker save", dockerSave(t, img, "team/app:1"), "", true},
		{"docker save with zstd", imagetest.Zstd(t, dockerSave(t, img, "team/app:1")), "", true},
		{"root filesystem", rootfs, "", false},
		{"root filesystem with gzip", imagetest.Gzip(t, rootfs), "", false},
		{"root filesystem with zstd", imagetest.Zstd(t, rootfs), "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openStore(t, nil)
			image, err := s.Import(t.Context(), bytes.NewReader(tc.data), ImportRequest{Name: "mine:2"})
			if err != nil {
				t.Fatal(err)
			}
			if image.Ref != "docker.io/library/mine:2" || tc.digest != "" && image.Digest != tc.digest {
				t.Errorf("got %s, %s; want digest %s", image.Ref, image.Digest, tc.digest)
			}
			if got := len(image.Config.Cmd) > 0; got != tc.cmd {
				t.Errorf("config is %+v", image.Config)
			}
			lease, err := s.Resolve(t.Context(), machine.ImageRequest{Ref: "mine:2"})
			if err != nil {
				t.Fatal(err)
			}
			lease.Release()
			if lease.Digest != image.Digest {
				t.Errorf("resolved to %s, imported %s", lease.Digest, image.Digest)
			}
			if left := s.list("tmp"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestImportFolder(t *testing.T) {
	img := sampleImage(t)
	s := openStore(t, nil)
	image, err := s.ImportPath(t.Context(), imagetest.LayoutOf(t, t.TempDir(), img), ImportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := imagetest.Digest(t, img); image.Digest != want || image.Ref != want {
		t.Errorf("got %s as %s, want %s", image.Digest, image.Ref, want)
	}
	lease, err := s.Resolve(t.Context(), machine.ImageRequest{Ref: image.Digest})
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
}

func TestImportKeepsName(t *testing.T) {
	s := openStore(t, nil)
	data := dockerSave(t, sampleImage(t), "team/app:1")
	image, err := s.Import(t.Context(), bytes.NewReader(data), ImportRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if image.Ref != "docker.io/team/app:1" {
		t.Errorf("got the name %q", image.Ref)
	}
}

// TestImportIsDeterministic lets equal content have one name, however it came.
func TestImportIsDeterministic(t *testing.T) {
	s := openStore(t, nil)
	data := imagetest.Tar(t, imagetest.File("a", "b"))
	first, err := s.Import(t.Context(), bytes.NewReader(data), ImportRequest{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.Import(t.Context(), bytes.NewReader(imagetest.Gzip(t, data)), ImportRequest{Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if first.Digest != second.Digest {
		t.Errorf("%s and %s", first.Digest, second.Digest)
	}
	info, err := s.Inspect(t.Context(), first.Digest)
	if err != nil || len(info.Refs) != 2 {
		t.Errorf("got %v, %v", info.Refs, err)
	}
}

func TestImportRefuses(t *testing.T) {
	layout := tarFolder(t, imagetest.LayoutOf(t, t.TempDir(), sampleImage(t)))
	for _, tc := range []struct {
		name string
		data []byte
		ref  string
		code string
	}{
		{"nothing", nil, "a", "IMAGE_CORRUPT"},
		{"no archive", bytes.Repeat([]byte("text "), 1000), "a", "IMAGE_CORRUPT"},
		{"empty archive", imagetest.Tar(t), "a", "IMAGE_CORRUPT"},
		{"cut archive", layout[:len(layout)/2], "a", "IMAGE_CORRUPT"},
		{"cut gzip", imagetest.Gzip(t, layout)[:200], "a", "IMAGE_CORRUPT"},
		{"changed layer", bytes.Replace(layout, []byte("\x28\xb5\x2f\xfd"), []byte("\x28\xb5\x2f\xfe"), 1), "a", "IMAGE_CORRUPT"},
		{"two images", imagetest.Tar(t, imagetest.File("manifest.json", `[{"Config":"a"},{"Config":"b"}]`)), "a", "IMAGE_AMBIGUOUS"},
		{"path to the host", imagetest.Tar(t, imagetest.File("manifest.json", `[{"Config":"/etc/passwd","Layers":[]}]`)), "a", "IMAGE_CORRUPT"},
		{"index of nothing", imagetest.Tar(t, imagetest.File("index.json", `{"schemaVersion":2,"manifests":[]}`)), "a", "IMAGE_NO_PLATFORM"},
		{"name with digest", layout, "a@sha256:" + string(bytes.Repeat([]byte("a"), 64)), "INVALID_IMAGE_REF"},
		{"name in upper case", layout, "A", "INVALID_IMAGE_REF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := openStore(t, nil)
			_, err := s.Import(t.Context(), bytes.NewReader(tc.data), ImportRequest{Name: tc.ref})
			if errdefs.CodeOf(err) != tc.code {
				t.Errorf("got %v (%s), want %s", err, errdefs.CodeOf(err), tc.code)
			}
			requireEmpty(t, s)
		})
	}
}

// TestImportFolderStaysInside checks that no link in a layout leads out of it.
func TestImportFolderStaysInside(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "index.json")
	if err := os.WriteFile(outside, []byte(`{"schemaVersion":2,"manifests":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "index.json")); err != nil {
		t.Fatal(err)
	}
	s := openStore(t, nil)
	if _, err := s.ImportPath(t.Context(), dir, ImportRequest{Name: "a"}); errdefs.CodeOf(err) != "IMAGE_CORRUPT" {
		t.Errorf("got %v", err)
	}
}

// TestImportStopsWhenStreamFails keeps nothing of an upload that breaks.
func TestImportStopsWhenStreamFails(t *testing.T) {
	s := openStore(t, nil)
	broken := io.MultiReader(bytes.NewReader(imagetest.Tar(t, imagetest.Dir("bin"))[:512]), errReader{})
	if _, err := s.Import(t.Context(), broken, ImportRequest{Name: "a"}); err == nil {
		t.Error("a broken stream was imported")
	}
	requireEmpty(t, s)
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }

// requireEmpty checks that the store holds no image and no file of one.
func requireEmpty(t *testing.T, s *Store) {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil || len(list) > 0 {
		t.Errorf("store lists %v, %v", list, err)
	}
	for _, dir := range []string{"base", "refs", "tmp"} {
		if left := s.list(dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}
