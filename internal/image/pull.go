package image

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/image/registry"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// target is what a reference was resolved to at a registry.
type target struct {
	ref    Reference
	top    manifest.Digest // of the document that ref names
	digest manifest.Digest // of the manifest for our platform
	doc    *manifest.Document
}

// find asks repo what ref names, and picks our platform from an index.
func (s *Store) find(ctx context.Context, repo *registry.Repository, ref Reference) (target, error) {
	t := target{ref: ref}
	identifier := ref.Identifier()
	for range 3 { // an index may hold an index; more depth has no use
		raw, contentType, err := repo.Manifest(ctx, identifier, s.opts.Limits.ManifestBytes)
		if err != nil {
			return target{}, err
		}
		if t.digest, err = manifest.ParseDigest(identifier); err != nil {
			t.digest = manifest.Of(raw)
		}
		if t.top == "" {
			t.top = t.digest
		}
		if t.doc, err = manifest.Parse(raw, contentType, s.opts.Limits.Layers); err != nil {
			return target{}, err
		}
		if !t.doc.IsIndex() {
			return t, nil
		}
		d, err := t.doc.Select(s.opts.Architecture)
		if err != nil {
			return target{}, err
		}
		identifier = string(d.Digest)
	}
	return target{}, layer.Corrupt(nil, "image index of %s is nested too deep", ref)
}

// pull brings the image that t names into the cache. It is the body of a
// flight.
func (s *Store) pull(ctx context.Context, repo *registry.Repository, t target, publish func(machine.ImageProgress)) (manifest.Digest, error) {
	raw, err := repo.Config(ctx, *t.doc.Config, s.opts.Limits.ManifestBytes)
	if err != nil {
		return "", err
	}
	config, err := manifest.ParseConfig(raw, len(t.doc.Layers), s.opts.Architecture)
	if err != nil {
		return "", err
	}
	settings, err := machineConfig(config)
	if err != nil {
		return "", err
	}
	p := &pull{store: s, repo: repo, target: t, diffIDs: config.RootFS.DiffIDs, publish: publish}
	d, err := p.convert(ctx)
	if err != nil {
		return "", err
	}
	r := record{
		Digest: t.digest,
		Ref:    t.ref.String(),
		Repos:  []string{t.ref.Repository()},
		Public: repo.Anonymous,
		Config: settings,
	}
	return t.digest, s.commit(d, r)
}

// pull is one download and conversion.
type pull struct {
	store   *Store
	repo    *registry.Repository
	target  target
	diffIDs []manifest.Digest
	publish func(machine.ImageProgress)

	mu      sync.Mutex
	files   []string // of layers, as ingest gave them
	resumed bool     // one of them held an earlier beginning
}

// convert downloads and converts. Where the content turns out wrong, and part
// of it was left by an earlier pull, it starts once more without that.
func (p *pull) convert(ctx context.Context) (*draft, error) {
	if err := p.checkSizes(); err != nil {
		return nil, err
	}
	d, err := p.attempt(ctx)
	if p.resumed && errdefs.CodeOf(err) == "IMAGE_CORRUPT" {
		d, err = p.attempt(ctx)
	}
	return d, err
}

func (p *pull) checkSizes() error {
	var sum int64
	for _, l := range p.target.doc.Layers {
		if limit := p.store.opts.Limits.Bytes; l.Size > limit-sum {
			return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_LARGE", "image has more than %d bytes of layers", limit)
		}
		sum += l.Size
	}
	return nil
}

func (p *pull) attempt(ctx context.Context) (d *draft, err error) {
	p.files, p.resumed = nil, false
	sources := make([]layer.Source, len(p.target.doc.Layers))
	for i, l := range p.target.doc.Layers {
		sources[i] = layer.Source{
			Open:   func(ctx context.Context) (io.ReadCloser, error) { return p.open(ctx, l) },
			Digest: l.Digest,
			DiffID: p.diffIDs[i],
		}
	}
	defer func() {
		keep := err != nil && resumable(explain(ctx, err))
		for _, path := range p.files {
			err = errors.Join(err, p.store.ingest.give(path, keep))
		}
	}()
	return p.store.convert(ctx, uuidOf(p.target.digest), sources, func() {
		p.publish(machine.ImageProgress{Phase: "convert"})
	})
}

// resumable reports whether what arrived before err is worth keeping.
func resumable(err error) bool {
	return errdefs.Is(err, errdefs.Unavailable) || errdefs.Is(err, errdefs.Timeout) || errors.Is(err, context.Canceled)
}

// open starts the download of one layer where an earlier one ended.
func (p *pull) open(ctx context.Context, l manifest.Descriptor) (io.ReadCloser, error) {
	f, path, err := p.store.ingest.take(p.target.ref.Repository(), l.Digest)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.files = append(p.files, path)
	p.mu.Unlock()
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	have := info.Size()
	if have > l.Size {
		have = 0 // of another manifest's idea of this layer
	}
	if have > 0 {
		p.mu.Lock()
		p.resumed = true
		p.mu.Unlock()
	}
	step := &progressStep{publish: p.publish, layer: string(l.Digest), total: l.Size}
	return receive(ctx, f, have, p.repo, l, step.at), nil
}

// progressStep thins the reports of one layer out.
type progressStep struct {
	publish func(machine.ImageProgress)
	layer   string
	total   int64
	last    time.Time
}

// progressInterval is how often a layer reports; eyes follow no faster.
const progressInterval = 100 * time.Millisecond

func (s *progressStep) at(current int64) {
	if now := time.Now(); current == s.total || now.Sub(s.last) >= progressInterval {
		s.last = now
		s.publish(machine.ImageProgress{Phase: "pull", Layer: s.layer, Current: current, Total: s.total})
	}
}
