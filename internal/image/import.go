package image

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/archive"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// ImportRequest says what to call an image that comes as a file.
type ImportRequest struct {
	// Name is the reference it gets, with a tag and without digest. Without
	// one it keeps the name that its archive gives it, or has its digest only.
	// Of several images in an archive it picks the one of that name. A name
	// that a registry has too stands for the imported image afterwards, for
	// everybody, until it is deleted.
	Name     string
	Progress func(machine.ImageProgress) // may be nil; called as by Resolve
}

// Import takes an image from a stream: an OCI layout or the output of docker
// save as a tar archive, or a root filesystem, each plain or compressed with
// gzip or zstd. Which it is it finds out. The image is local: its name is never
// looked for at a registry, and everybody may have it. An archive that names
// several images, and none of them Name, is IMAGE_AMBIGUOUS. r is read until
// its end or ctx's, and closed at the latter if it can be.
func (s *Store) Import(ctx context.Context, r io.Reader, req ImportRequest) (machine.Image, error) {
	f, err := s.disk.create("make archive", s.path("tmp"), "import-*")
	if err != nil {
		return machine.Image{}, explain(ctx, err)
	}
	defer func() {
		f.Close()
		if err := s.disk.remove("drop archive", f.Name()); err != nil {
			s.opts.Logger.Warn("archive not removed", "error", err)
		}
	}()
	if err := s.spool(ctx, f, r); err != nil {
		return machine.Image{}, explain(ctx, err)
	}
	return s.importFile(ctx, f, req)
}

// ImportPath is Import of a file, or of an OCI layout in a folder, on this
// host. Which paths a caller may name is for the caller of ImportPath to judge.
func (s *Store) ImportPath(ctx context.Context, path string, req ImportRequest) (machine.Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return machine.Image{}, fmt.Errorf("open image archive: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return machine.Image{}, fmt.Errorf("open image archive: %w", err)
	}
	if !info.IsDir() {
		return s.importFile(ctx, f, req)
	}
	return s.importWith(ctx, req, func(ctx context.Context, opts archive.Options) (*archive.Image, error) {
		return archive.OpenDir(ctx, path, opts)
	})
}

func (s *Store) spool(ctx context.Context, f *os.File, r io.Reader) error {
	limit := s.opts.Limits.Bytes
	stop := context.AfterFunc(ctx, func() {
		if c, ok := r.(io.Closer); ok {
			c.Close() // a stream that stands still must not hold us
		}
	})
	defer stop()
	n, err := io.Copy(f, io.LimitReader(r, limit+1))
	if err != nil {
		return fmt.Errorf("receive image archive: %w", err)
	}
	if n > limit {
		return s.opts.Limits.quota().TooLarge()
	}
	return nil
}

func (s *Store) importFile(ctx context.Context, f *os.File, req ImportRequest) (machine.Image, error) {
	return s.importWith(ctx, req, func(ctx context.Context, opts archive.Options) (*archive.Image, error) {
		return archive.Open(ctx, f, opts)
	})
}

func (s *Store) importWith(ctx context.Context, req ImportRequest, open func(context.Context, archive.Options) (*archive.Image, error)) (machine.Image, error) {
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return machine.Image{}, err
	}
	defer leave()
	image, err := s.importImage(ctx, req, open)
	return image, explain(ctx, err)
}

// enter bounds work in the caller's goroutine by the Store's life and by
// Limits.Time.
func (s *Store) enter(ctx context.Context) (context.Context, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed
	}
	s.wg.Add(1)
	ctx, timeout := context.WithTimeoutCause(ctx, s.opts.Limits.Time, errTimeout)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.life, func() { cancel(errClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		timeout()
		s.wg.Done()
	}, nil
}

func (s *Store) importImage(ctx context.Context, req ImportRequest, open func(context.Context, archive.Options) (*archive.Image, error)) (_ machine.Image, err error) {
	report := req.Progress
	if report == nil {
		report = func(machine.ImageProgress) {}
	}
	if _, err := localName(req.Name); err != nil {
		return machine.Image{}, err
	}
	report(machine.ImageProgress{Phase: "resolve"})
	img, err := open(ctx, archive.Options{
		TempDir:       s.path("tmp"),
		Architecture:  s.opts.Architecture,
		MaxBytes:      min(s.opts.Limits.Bytes, s.opts.MaxBytes), // a temporary file is no larger than the cache
		MaxManifest:   s.opts.Limits.ManifestBytes,
		MaxLayers:     s.opts.Limits.Layers,
		WantReference: req.Name,
	})
	if err != nil {
		return machine.Image{}, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	name := req.Name
	if _, err := localName(img.Name); name == "" && err == nil {
		name = img.Name
	}
	report(machine.ImageProgress{Phase: "convert"})
	r, err := s.convertImport(ctx, img)
	if err != nil {
		return machine.Image{}, err
	}
	lease := s.leased(r.Digest)
	defer lease.Release()
	if name != "" {
		if lease.Ref, err = s.setLocal(name, r.Digest); err != nil {
			return machine.Image{}, err
		}
	}
	s.mu.Lock()
	s.stats.Imports++
	s.mu.Unlock()
	report(machine.ImageProgress{Phase: "done"})
	return lease.Image, nil
}

// localName checks a name for an imported image; "" is none.
func localName(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	ref, err := ParseReference(name)
	if err != nil {
		return "", err
	}
	if ref.Digest != "" {
		return "", invalidRef(name, "an imported image is named by a tag")
	}
	return ref.String(), nil
}

func (s *Store) setLocal(name string, d manifest.Digest) (string, error) {
	ref, err := localName(name)
	if err != nil {
		return "", err
	}
	return ref, s.setRef(reference{Ref: ref, Top: d, Digest: d, Local: true, Updated: time.Now().UTC()})
}

// convertImport converts and commits an image of an archive; it is leased once.
func (s *Store) convertImport(ctx context.Context, img *archive.Image) (record, error) {
	config := &manifest.Config{OS: "linux", Architecture: s.opts.Architecture}
	if img.Config != nil {
		var err error
		if config, err = manifest.ParseConfig(img.Config, len(img.Layers), s.opts.Architecture); err != nil {
			return record{}, err
		}
	}
	settings, err := machineConfig(config)
	if err != nil {
		return record{}, err
	}
	sources := make([]layer.Source, len(img.Layers))
	for i, l := range img.Layers {
		sources[i] = layer.Source{Open: l.Open, Digest: l.Digest}
		if img.Config != nil {
			sources[i].DiffID = config.RootFS.DiffIDs[i]
		}
	}
	d, err := s.convert(ctx, uuidOf(seedOf(img)), sources, nil)
	if err != nil {
		return record{}, err
	}
	r := record{Digest: img.Digest, Public: true, Config: settings}
	if r.Digest == "" {
		r.Digest = nameContent(img, config, d)
	}
	r.Ref = string(r.Digest)
	return r, s.commit(d, r)
}

// seedOf returns what the UUID of an image's base is derived from. That of a
// root filesystem has to be chosen before anything is known of its content.
func seedOf(img *archive.Image) manifest.Digest {
	switch {
	case img.Digest != "":
		return img.Digest
	case img.Config != nil:
		return manifest.Of(img.Config)
	default:
		return manifest.Of([]byte(rand.Text()))
	}
}

// nameContent gives an image that came without a manifest the digest of the one
// that it would have with uncompressed layers.
func nameContent(img *archive.Image, config *manifest.Config, d *draft) manifest.Digest {
	raw := img.Config
	if raw == nil {
		config.RootFS = manifest.RootFS{Type: "layers", DiffIDs: d.diffIDs}
		raw = mustJSON(config)
	}
	doc := manifest.Document{
		SchemaVersion: 2,
		MediaType:     manifest.OCIManifest,
		Config:        &manifest.Descriptor{MediaType: manifest.OCIConfig, Digest: manifest.Of(raw), Size: int64(len(raw))},
	}
	for i, id := range d.diffIDs {
		doc.Layers = append(doc.Layers, manifest.Descriptor{MediaType: manifest.OCILayer, Digest: id, Size: d.sizes[i]})
	}
	return manifest.Of(mustJSON(doc))
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs of strings and numbers
	}
	return b
}
