package imagetest

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"compress/gzip"
)

// Image returns an image for this host's platform with the given config and
// layers, the lowest first. A layer is given as it is distributed: compressed
// or not.
func Image(tb testing.TB, config v1.Config, layers ...[]byte) v1.Image {
	tb.Helper()
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, b := range layers {
		var err error
		if img, err = mutate.Append(img, mutate.Addendum{Layer: newBlob(tb, b)}); err != nil {
			tb.Fatalf("append layer: %v", err)
		}
	}
	file, err := img.ConfigFile()
	if err != nil {
		tb.Fatalf("read config: %v", err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", runtime.GOARCH, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		tb.Fatalf("set config: %v", err)
	}
	return img
}

// Digest returns an image's manifest digest.
func Digest(tb testing.TB, img v1.Image) string {
	tb.Helper()
	d, err := img.Digest()
	if err != nil {
		tb.Fatalf("digest of image: %v", err)
	}
	return d.String()
}

// Layout writes an OCI layout with one image of the given layers into dir, and
// returns dir.
func Layout(tb testing.TB, dir string, layers ...[]byte) string {
	tb.Helper()
	return LayoutOf(tb, dir, Image(tb, v1.Config{}, layers...))
}

// LayoutOf writes an OCI layout with one image into dir, and returns dir.
func LayoutOf(tb testing.TB, dir string, img v1.Image) string {
	tb.Helper()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		tb.Fatalf("write layout: %v", err)
	}
	if err := path.AppendImage(img); err != nil {
		tb.Fatalf("append image to layout: %v", err)
	}
	return dir
}

// blob is a layer as it is distributed.
type blob struct {
	data           []byte
	digest, diffID v1.Hash
	mediaType      types.MediaType
}

func newBlob(tb testing.TB, b []byte) *blob {
	tb.Helper()
	l := &blob{data: b, mediaType: types.OCIUncompressedLayer}
	switch {
	case bytes.HasPrefix(b, []byte{0x1f, 0x8b}):
		l.mediaType = types.OCILayer
	case bytes.HasPrefix(b, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		l.mediaType = types.OCILayerZStd
	}
	var err error
	if l.digest, _, err = v1.SHA256(bytes.NewReader(b)); err != nil {
		tb.Fatal(err)
	}
	r, err := l.Uncompressed()
	if err != nil {
		tb.Fatalf("decompress layer: %v", err)
	}
	defer r.Close()
	if l.diffID, _, err = v1.SHA256(r); err != nil {
		tb.Fatalf("decompress layer: %v", err)
	}
	return l
}

func (l *blob) Digest() (v1.Hash, error)            { return l.digest, nil }
func (l *blob) DiffID() (v1.Hash, error)            { return l.diffID, nil }
func (l *blob) Size() (int64, error)                { return int64(len(l.data)), nil }
func (l *blob) MediaType() (types.MediaType, error) { return l.mediaType, nil }
func (l *blob) Compressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(l.data)), nil
}

func (l *blob) Uncompressed() (io.ReadCloser, error) {
	switch r := bytes.NewReader(l.data); l.mediaType {
	case types.OCILayer:
		return gzip.NewReader(r)
	case types.OCILayerZStd:
		d, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	default:
		return io.NopCloser(r), nil
	}
}
