// Package archive opens images that are files: an OCI layout (a folder, or a
// tar archive of one), what docker save writes, and a plain root filesystem as
// a tar archive. It finds out by itself which of them a file is.
//
// The result says where config and layers are; nothing is unpacked. A tar
// archive is read in place, a compressed one of the first two kinds is first
// decompressed into a temporary file. Layers are not verified here: package
// layer does it while it reads them.
//
// Everything comes from a stranger. Names in an archive are looked up in a
// table and never on the host's file system; a folder is opened through
// os.Root, which no symbolic link leads out of. Errors are of package errdefs.
//
// An Image is used by one goroutine, but its layers are read by several.
package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

// Options bound what is read.
type Options struct {
	TempDir       string // where a compressed archive is decompressed to
	Architecture  string // as GOARCH has it
	MaxBytes      int64  // of an archive once decompressed
	MaxManifest   int64  // of one document, in bytes
	MaxLayers     int
	WantReference string // picks one image of several by its name; may be ""
}

// Image is an image in an archive.
type Image struct {
	Kind     string          // "oci", "docker" or "rootfs"
	Name     string          // what the archive calls it; may be "" or no reference
	Digest   manifest.Digest // of its manifest; "" when it has none
	Config   []byte          // config document; nil for a root filesystem
	Layers   []Layer         // the lowest first
	closeAll []func() error
}

// Layer is one layer of an Image.
type Layer struct {
	Digest manifest.Digest // of the bytes that Open gives; "" when unknown
	Open   func(ctx context.Context) (io.ReadCloser, error)
}

// Close frees what Open has opened, and removes its temporary file.
func (img *Image) Close() error {
	var errs []error
	for _, closeOne := range slices.Backward(img.closeAll) {
		errs = append(errs, closeOne())
	}
	img.closeAll = nil
	return errors.Join(errs...)
}

// OpenDir opens an OCI layout in a folder. The caller closes the Image. ctx
// bounds the call only.
func OpenDir(ctx context.Context, dir string, opts Options) (*Image, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open image folder: %w", err)
	}
	img := &Image{closeAll: []func() error{root.Close}}
	if err := img.readLayout(ctx, folder{root}, opts); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

// Open opens an archive of any kind. f must stay open until Close, which leaves
// it open. ctx bounds the call only.
func Open(ctx context.Context, f *os.File, opts Options) (*Image, error) {
	head := make([]byte, 4)
	n, err := f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	compressed := layer.Compressed(head[:n])
	rootfs, err := isRootfs(ctx, f, compressed, opts.MaxBytes)
	if err != nil {
		return nil, err
	}
	if rootfs {
		return &Image{Kind: "rootfs", Layers: []Layer{{Open: section(f, 0, -1)}}}, nil
	}
	img := &Image{}
	if compressed {
		if f, err = img.decompress(ctx, f, opts); err != nil {
			return nil, errors.Join(err, img.Close())
		}
	}
	if err := img.readArchive(ctx, f, opts); err != nil {
		return nil, errors.Join(err, img.Close())
	}
	return img, nil
}

func (img *Image) readArchive(ctx context.Context, f *os.File, opts Options) error {
	table, err := readTable(ctx, f)
	if err != nil {
		return err
	}
	if table.has("index.json") {
		return img.readLayout(ctx, table, opts)
	}
	return img.readDocker(ctx, table, opts)
}

// decompress copies f, decompressed, to a temporary file that Close removes.
func (img *Image) decompress(ctx context.Context, f *os.File, opts Options) (*os.File, error) {
	tmp, err := os.CreateTemp(opts.TempDir, "archive-*")
	if err != nil {
		return nil, fmt.Errorf("make archive file: %w", err)
	}
	img.closeAll = append(img.closeAll, func() error {
		return errors.Join(tmp.Close(), os.Remove(tmp.Name()))
	})
	r := io.NewSectionReader(f, 0, 1<<62)
	return tmp, layer.Decompress(&bounded{ctx: ctx, w: tmp, left: opts.MaxBytes}, r)
}

// isRootfs decides by the first name that has no place in the archive of an
// image. Archives of images have few kinds of names; all are listed here.
func isRootfs(ctx context.Context, f *os.File, compressed bool, limit int64) (bool, error) {
	plain := io.NewSectionReader(f, 0, 1<<62)
	tr := tar.NewReader(plain)
	if compressed {
		r := decompressing(ctx, plain, limit)
		defer r.Close()
		tr = tar.NewReader(r)
	}
	document := false
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if !document {
				return false, errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "archive is empty, or holds parts of an image only")
			}
			return false, nil
		}
		if err != nil {
			return false, explain(ctx, err)
		}
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		name := path.Clean(h.Name)
		if !imageMember(name) {
			return true, nil
		}
		document = document || name == "index.json" || name == "manifest.json"
	}
}

// imageMember reports whether a name has a place in an OCI layout or in what
// docker save, podman and skopeo write.
func imageMember(name string) bool {
	switch name {
	case ".", "oci-layout", "index.json", "manifest.json", "repositories", "blobs":
		return true
	}
	first, rest, _ := strings.Cut(name, "/")
	if first == "blobs" {
		return true
	}
	first = strings.TrimPrefix(first, "sha256:")
	digits, _, _ := strings.Cut(first, ".") // <id>.json, <id>.tar
	return len(digits) == 64 && strings.Trim(digits, "0123456789abcdef") == "" &&
		(rest == "" || rest == "VERSION" || rest == "json" || rest == "layer.tar")
}

// explain gives an error of the tar reader its kind, if what it read from has
// not given it one.
func explain(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errdefs.Is(err, errdefs.Internal):
		return layer.Corrupt(err, "file is no valid tar archive")
	}
	return err
}

// decompressing returns r decompressed, at most limit bytes of it, while ctx
// lasts. Closing it ends the goroutine behind.
func decompressing(ctx context.Context, r io.Reader, limit int64) io.ReadCloser {
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(layer.Decompress(&bounded{ctx: ctx, w: pw, left: limit}, r))
	}()
	return &piped{pr, done}
}

type piped struct {
	*io.PipeReader
	done chan struct{}
}

func (p *piped) Close() error {
	err := p.PipeReader.Close()
	<-p.done
	return err
}

// bounded takes so many bytes, while ctx lasts.
type bounded struct {
	ctx  context.Context
	w    io.Writer
	left int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errdefs.New(errdefs.Exhausted, "IMAGE_TOO_LARGE", "archive unpacks to more bytes than are allowed")
	}
	return b.w.Write(p)
}
