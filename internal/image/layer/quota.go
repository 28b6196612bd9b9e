package layer

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Quota bounds what all layers of one image may hold together. It is safe for
// concurrent use. The limits must not change once reading has begun.
type Quota struct {
	MaxBytes      int64 // uncompressed bytes of all layers, holes of sparse files included
	MaxEntries    int64 // entries of all layers
	MaxDepth      int   // components of one path
	MaxXattrBytes int   // names and values of one entry's extended attributes, in bytes
	MaxMetadata   int64 // bytes of all names, targets and attributes: they stay in memory

	bytes, entries, content, metadata atomic.Int64

	once     sync.Once
	decoders chan *zstd.Decoder // maxDecoders, nil before the first use
}

// decoder lends one of the image's zstd decoders. It waits for it until ctx
// ends. They are used again and again: each holds a window.
func (q *Quota) decoder(ctx context.Context) (zr *zstd.Decoder, done func(), err error) {
	q.once.Do(func() {
		q.decoders = make(chan *zstd.Decoder, maxDecoders)
		for range maxDecoders {
			q.decoders <- nil
		}
	})
	select {
	case zr = <-q.decoders:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	if zr == nil {
		if zr, err = newDecoder(); err != nil {
			q.decoders <- nil
			return nil, nil, err
		}
	}
	return zr, func() {
		_ = zr.Reset(nil) // lets go of the layer, and cannot fail
		q.decoders <- zr
	}, nil
}

// Bytes returns the uncompressed bytes that were read so far.
func (q *Quota) Bytes() int64 { return q.bytes.Load() }

func (q *Quota) addBytes(n int64) error {
	if q.bytes.Add(n) > q.MaxBytes {
		return q.TooLarge()
	}
	return nil
}

// addContent counts what regular files hold: the holes of sparse files take no
// bytes of the archive, but time and, in the worst case, disk space.
func (q *Quota) addContent(n int64) error {
	if n > q.MaxBytes || q.content.Add(n) > q.MaxBytes {
		return q.TooLarge()
	}
	return nil
}

// TooLarge is the error of an image with more than MaxBytes.
func (q *Quota) TooLarge() error {
	return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_LARGE", "image unpacks to more than %d bytes", q.MaxBytes)
}

// AddEntry counts a file. Package merge counts directories that no entry
// describes.
func (q *Quota) AddEntry() error {
	if q.entries.Add(1) > q.MaxEntries {
		return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_MANY_ENTRIES", "image has more than %d entries", q.MaxEntries)
	}
	return nil
}

func (q *Quota) addMetadata(n int64) error {
	if q.metadata.Add(n) > q.MaxMetadata {
		return errdefs.New(errdefs.Exhausted, "IMAGE_METADATA_TOO_LARGE", "image has more than %d bytes of names, link targets and attributes", q.MaxMetadata)
	}
	return nil
}

// Corrupt is the error of an archive that is against its format.
func Corrupt(cause error, format string, args ...any) error {
	return errdefs.Wrap(cause, errdefs.Invalid, "IMAGE_CORRUPT", format, args...)
}
