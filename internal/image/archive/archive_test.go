package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

// sample is an image of two documents and two layers.
type sample struct {
	manifest, config string
	layers           [2]string
}

func newSample() sample {
	s := sample{config: `{"os":"linux"}`, layers: [2]string{"lower", "upper"}}
	doc := manifest.Document{SchemaVersion: 2, MediaType: manifest.OCIManifest, Config: descriptor(manifest.OCIConfig, s.config)}
	for _, l := range s.layers {
		doc.Layers = append(doc.Layers, *descriptor(manifest.OCILayer, l))
	}
	s.manifest = encode(doc)
	return s
}

func descriptor(mediaType, content string) *manifest.Descriptor {
	return &manifest.Descriptor{MediaType: mediaType, Digest: manifest.Of([]byte(content)), Size: int64(len(content))}
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func blobFile(content string) imagetest.Entry {
	return imagetest.File(blobPath(manifest.Of([]byte(content))), content)
}

// index is an index.json that names documents.
func index(documents ...string) imagetest.Entry {
	doc := manifest.Document{SchemaVersion: 2, MediaType: manifest.OCIIndex}
	for i, d := range documents {
		m := descriptor(manifest.OCIManifest, d)
		m.Annotations = map[string]string{imageNameAnnotation: fmt.Sprintf("example.com/image:%d", i)}
		doc.Manifests = append(doc.Manifests, *m)
	}
	return imagetest.File("index.json", encode(doc))
}

// layout is a whole OCI layout as an archive, with more at its end.
func (s sample) layout(tb testing.TB, more ...imagetest.Entry) []byte {
	return imagetest.Tar(tb, append([]imagetest.Entry{
		imagetest.File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), imagetest.Dir("blobs"), imagetest.Dir("blobs/sha256"),
		blobFile(s.manifest), blobFile(s.config), blobFile(s.layers[0]), blobFile(s.layers[1]), index(s.manifest),
	}, more...)...)
}

func save(config string, layers ...string) imagetest.Entry {
	return imagetest.File("manifest.json", encode([]dockerImage{{Config: config, RepoTags: []string{"made:1"}, Layers: layers}}))
}

func options(tb testing.TB) Options {
	return Options{TempDir: tb.TempDir(), Architecture: runtime.GOARCH, MaxBytes: 1 << 20, MaxManifest: 4096, MaxLayers: 3}
}

// open opens b as an archive; the Image is closed at the test's end.
func open(tb testing.TB, b []byte, opts Options) (*Image, error) {
	tb.Helper()
	f, err := os.CreateTemp(tb.TempDir(), "archive-*")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { f.Close() })
	if _, err := f.Write(b); err != nil {
		tb.Fatal(err)
	}
	img, err := Open(tb.Context(), f, opts)
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() {
		if err := img.Close(); err != nil {
			tb.Error(err)
		}
		left, err := os.ReadDir(opts.TempDir)
		if err != nil || len(left) > 0 {
			tb.Errorf("left behind: %v, %v", left, err)
		}
	})
	return img, nil
}

func content(tb testing.TB, l Layer) string {
	tb.Helper()
	r, err := l.Open(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

func TestOpen(t *testing.T) {
	s := newSample()
	id := strings.Repeat("a", 64)
	docker := imagetest.Tar(t, save(id+".json", id+"/layer.tar", id+"/second/../layer.tar"),
		imagetest.File(id+".json", s.config), imagetest.File(id+"/layer.tar", s.layers[0]))
	linked := imagetest.Tar(t, save(id+".json", id+"/layer.tar", "sha256:"+id+"/layer.tar"), imagetest.File(id+".json", s.config),
		imagetest.File(id+"/layer.tar", s.layers[0]), imagetest.Symlink("sha256:"+id+"/layer.tar", "../"+id+"/layer.tar"))
	for name, tc := range map[string]struct {
		archive []byte
		kind    string
		name    string
		layers  []string
	}{
		"layout":                   {s.layout(t), "oci", "example.com/image:0", s.layers[:]},
		"layout, gzip":             {imagetest.Gzip(t, s.layout(t)), "oci", "example.com/image:0", s.layers[:]},
		"layout, zstd":             {imagetest.Zstd(t, s.layout(t)), "oci", "example.com/image:0", s.layers[:]},
		"docker save":              {docker, "docker", "made:1", []string{s.layers[0], s.layers[0]}},
		"docker save, linked":      {linked, "docker", "made:1", []string{s.layers[0], s.layers[0]}},
		"root filesystem":          {imagetest.Tar(t, imagetest.Dir("blobs"), imagetest.Dir("bin")), "rootfs", "", nil},
		"files with image's names": {imagetest.Tar(t, index(s.manifest), imagetest.File("etc/index.json", "")), "rootfs", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := open(t, tc.archive, options(t))
			if err != nil {
				t.Fatal(err)
			}
			if img.Kind != tc.kind || img.Name != tc.name {
				t.Errorf("got kind %q, name %q", img.Kind, img.Name)
			}
			if tc.kind == "rootfs" {
				if len(img.Layers) != 1 || content(t, img.Layers[0]) != string(tc.archive) {
					t.Error("the layer is not the archive")
				}
				return
			}
			var layers []string
			for _, l := range img.Layers {
				layers = append(layers, content(t, l))
			}
			if diff := cmp.Diff(tc.layers, layers); diff != "" || string(img.Config) != s.config {
				t.Errorf("config %q, layers (-want +got):\n%s", img.Config, diff)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	s := newSample()
	host := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(host, []byte(s.config), 0o600); err != nil {
		t.Fatal(err)
	}
	id := strings.Repeat("b", 64)
	nested := func(document string) string {
		return encode(manifest.Document{SchemaVersion: 2, MediaType: manifest.OCIIndex, Manifests: []manifest.Descriptor{*descriptor(manifest.OCIIndex, document)}})
	}
	deep := []imagetest.Entry{blobFile(s.manifest), blobFile(s.config)}
	last := s.manifest
	for range 5 {
		last = nested(last)
		deep = append(deep, blobFile(last))
	}
	many := make([]string, 4)
	for i := range many {
		many[i] = id + "/layer.tar"
	}
	changed := strings.Replace(string(s.layout(t)), s.config, `{"os":"LINUX"}`, 1)
	for name, tc := range map[string]struct {
		archive []byte
		code    string
	}{
		"nothing":                {nil, "IMAGE_CORRUPT"},
		"no archive":             {[]byte(strings.Repeat("text ", 500)), "IMAGE_CORRUPT"},
		"cut in a header":        {s.layout(t)[:700], "IMAGE_CORRUPT"},
		"blobs only":             {imagetest.Tar(t, blobFile("x")), "IMAGE_CORRUPT"},
		"no manifest":            {imagetest.Tar(t, index(s.manifest)), "IMAGE_CORRUPT"},
		"no config":              {imagetest.Tar(t, index(s.manifest), blobFile(s.manifest)), "IMAGE_CORRUPT"},
		"no layer":               {imagetest.Tar(t, index(s.manifest), blobFile(s.manifest), blobFile(s.config), blobFile(s.layers[0])), "IMAGE_CORRUPT"},
		"other config":           {[]byte(changed), "IMAGE_CORRUPT"},
		"index is no index":      {imagetest.Tar(t, imagetest.File("index.json", s.manifest)), "IMAGE_CORRUPT"},
		"index is no JSON":       {imagetest.Tar(t, imagetest.File("index.json", "{")), "IMAGE_CORRUPT"},
		"index of nothing":       {imagetest.Tar(t, imagetest.File("index.json", `{"schemaVersion":2,"manifests":[]}`)), "IMAGE_NO_PLATFORM"},
		"two images":             {s.layout(t, index(s.manifest, s.config)), "IMAGE_AMBIGUOUS"},
		"nested too deep":        {imagetest.Tar(t, append(deep, index(last))...), "IMAGE_CORRUPT"},
		"digest with a path":     {imagetest.Tar(t, imagetest.File("index.json", `{"schemaVersion":2,"manifests":[{"digest":"sha256:../../etc/passwd","size":1}]}`)), "IMAGE_CORRUPT"},
		"huge document":          {imagetest.Tar(t, imagetest.File("index.json", strings.Repeat(" ", 4097))), "IMAGE_MANIFEST_TOO_LARGE"},
		"huge index":             {imagetest.Tar(t, imagetest.File("index.json", `{"schemaVersion":2,"manifests":[`+strings.Repeat("{},", 1001)+`{}]}`)), "IMAGE_MANIFEST_TOO_LARGE"},
		"too many layers":        {imagetest.Tar(t, save(id+".json", many...), imagetest.File(id+".json", s.config), imagetest.File(id+"/layer.tar", "")), "IMAGE_TOO_MANY_LAYERS"},
		"no image saved":         {imagetest.Tar(t, imagetest.File("manifest.json", "[]")), "IMAGE_AMBIGUOUS"},
		"config of the host":     {imagetest.Tar(t, save(host)), "IMAGE_CORRUPT"},
		"config above":           {imagetest.Tar(t, save("../../../../../.."+host)), "IMAGE_CORRUPT"},
		"config linked to host":  {imagetest.Tar(t, save(id+".json"), imagetest.Symlink(id+".json", host)), "IMAGE_CORRUPT"},
		"layer of the host":      {imagetest.Tar(t, save(id+".json", host), imagetest.File(id+".json", s.config)), "IMAGE_CORRUPT"},
		"links in a circle":      {imagetest.Tar(t, save(id+".json"), imagetest.Symlink(id+".json", id), imagetest.Symlink(id, id+".json")), "IMAGE_CORRUPT"},
		"config is a directory":  {imagetest.Tar(t, save(id), imagetest.Dir(id)), "IMAGE_CORRUPT"},
		"config is a device":     {imagetest.Tar(t, save(id), imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: id, Devmajor: 1, Devminor: 5}}), "IMAGE_CORRUPT"},
		"endless name":           {s.layout(t, imagetest.File("blobs/"+strings.Repeat("n", 4000), "")), "IMAGE_CORRUPT"},
		"bomb":                   {imagetest.Gzip(t, s.layout(t, imagetest.File("blobs/zeros", strings.Repeat("\x00", 2<<20)))), "IMAGE_TOO_LARGE"},
		"bomb, found when typed": {imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("blobs/zeros", strings.Repeat("\x00", 2<<20)), imagetest.Dir("bin"))), "IMAGE_TOO_LARGE"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(t)
			if _, err := open(t, tc.archive, opts); errdefs.CodeOf(err) != tc.code {
				t.Errorf("got %v (%s), want %s", err, errdefs.CodeOf(err), tc.code)
			}
			if left, err := os.ReadDir(opts.TempDir); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestOpenTooManyMembers(t *testing.T) {
	entries := []imagetest.Entry{imagetest.File("index.json", "{}")}
	for i := range maxMembers {
		entries = append(entries, imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint("blobs/", i), Format: tar.FormatUSTAR, ModTime: imagetest.Epoch.Truncate(1e9)}})
	}
	if _, err := open(t, imagetest.Tar(t, entries...), options(t)); errdefs.CodeOf(err) != "IMAGE_TOO_MANY_ENTRIES" {
		t.Errorf("got %v", err)
	}
}

func TestOpenPicksByName(t *testing.T) {
	s := newSample()
	opts := options(t)
	opts.WantReference = "example.com/image:1"
	img, err := open(t, s.layout(t, index("another", s.manifest)), opts)
	if err != nil {
		t.Fatal(err)
	}
	if img.Digest != manifest.Of([]byte(s.manifest)) {
		t.Errorf("got %s", img.Digest)
	}
}

func TestOpenEnds(t *testing.T) {
	s := newSample()
	f, err := os.Create(filepath.Join(t.TempDir(), "archive"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, archive := range [][]byte{s.layout(t), imagetest.Gzip(t, s.layout(t))} {
		if _, err := f.WriteAt(archive, 0); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		reason := errors.New("enough")
		cancel(reason)
		if _, err := Open(ctx, f, options(t)); !errors.Is(err, reason) {
			t.Errorf("got %v", err)
		}
	}
}

// TestOpenDir reads a layout from a folder, and nothing but regular files of it.
func TestOpenDir(t *testing.T) {
	s := newSample()
	dir := t.TempDir()
	put := func(e imagetest.Entry) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, e.Name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name), []byte(e.Body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []imagetest.Entry{index(s.manifest), blobFile(s.manifest), blobFile(s.config), blobFile(s.layers[0]), blobFile(s.layers[1])} {
		put(e)
	}
	img, err := OpenDir(t.Context(), dir, options(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := content(t, img.Layers[1]); got != s.layers[1] {
		t.Errorf("got %q", got)
	}
	upper := filepath.Join(dir, blobFile(s.layers[1]).Name)
	if err := os.Remove(upper); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(upper, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := img.Layers[1].Open(t.Context()); errdefs.CodeOf(err) != "IMAGE_CORRUPT" {
		t.Errorf("FIFO in place of a layer: %v", err)
	}
	if err := img.Close(); err != nil {
		t.Error(err)
	}
	if _, err := OpenDir(t.Context(), dir, options(t)); errdefs.CodeOf(err) != "IMAGE_CORRUPT" {
		t.Errorf("layout with a FIFO: %v", err)
	}
	if _, err := OpenDir(t.Context(), filepath.Join(dir, "none"), options(t)); err == nil {
		t.Error("a folder that is not there was opened")
	}
}
