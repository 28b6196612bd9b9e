package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/hyperfleet/hyperfleet/internal/ext4"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/image/merge"
)

// baseLabel is the volume name of every base.
const baseLabel = "hyperfleet-base"

// draft is a base that has no name yet: a synced file under tmp/.
type draft struct {
	path    string
	size    int64 // disk space
	length  int64
	diffIDs []manifest.Digest
	sizes   []int64 // of the uncompressed layers
}

// convert reads layers, the lowest first, into a new base. It leaves no file
// when it fails. merging, if not nil, is called when all layers are in.
func (s *Store) convert(ctx context.Context, uuid [16]byte, layers []layer.Source, merging func()) (d *draft, err error) {
	f, err := s.disk.create("make base", s.path("tmp"), "base-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		f.Close()
		if err != nil {
			err = errors.Join(err, s.disk.remove("drop base", f.Name()))
		}
	}()
	w, err := ext4.NewWriter(f, ext4.Options{UUID: uuid, Label: baseLabel, MaxSize: s.maxDraft()})
	if err != nil {
		return nil, err
	}
	quota := s.opts.Limits.quota()
	read, err := s.readLayers(ctx, layers, w, quota)
	if err != nil {
		return nil, err
	}
	if merging != nil {
		merging()
	}
	d = &draft{path: f.Name()}
	tree := merge.New(quota)
	for i, l := range read {
		if err := tree.Apply(ctx, l); err != nil {
			return nil, err
		}
		d.diffIDs, d.sizes = append(d.diffIDs, l.DiffID), append(d.sizes, l.Size)
		read[i] = nil // its entries need not stay in memory
	}
	if _, err := w.Finish(tree.Finish()); err != nil {
		return nil, err
	}
	return d, s.settle(d, f)
}

// maxDraft bounds a base while it is written, in bytes without holes: an image
// that unpacks to far more than the cache may hold is stopped before it fills
// the disk. Twice the cache, since what higher layers replace goes at the end.
func (s *Store) maxDraft() int64 {
	const least, most = 1 << 30, 16 << 40 // the latter is all that ext4 can have
	return min(max(2*min(s.opts.MaxBytes, most), least), most)
}

func (s *Store) readLayers(ctx context.Context, layers []layer.Source, w *ext4.Writer, quota *layer.Quota) ([]*layer.Layer, error) {
	read := make([]*layer.Layer, len(layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.opts.Limits.Parallel)
	for i, src := range layers {
		g.Go(func() (err error) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			read[i], err = layer.Read(ctx, src, w, quota)
			return err
		})
	}
	return read, g.Wait()
}

// settle makes the file of d durable and read-only.
func (s *Store) settle(d *draft, f *os.File) error {
	if err := f.Chmod(0o400); err != nil {
		return fmt.Errorf("protect base: %w", err)
	}
	if err := s.disk.sync("sync base", f); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("measure base: %w", err)
	}
	d.size, d.length = allocated(info), info.Size()
	if d.size > s.opts.MaxBytes {
		return exceedsCache(d.size, s.opts.MaxBytes)
	}
	return nil
}

// uuidOf derives a file system's UUID from a digest, so that the same image is
// the same bytes everywhere; version 8 and variant as in RFC 9562 5.8.
func uuidOf(d manifest.Digest) (uuid [16]byte) {
	sum := sha256.Sum256([]byte("hyperfleet base " + string(d)))
	copy(uuid[:], sum[:])
	uuid[6] = uuid[6]&0x0f | 0x80
	uuid[8] = uuid[8]&0x3f | 0x80
	return uuid
}
