package daemon

import (
	"context"
	"io"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/httpapi"
	"github.com/hyperfleet/hyperfleet/internal/image"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// imageCache is the image store as the API wants it.
type imageCache struct{ store *image.Store }

var _ httpapi.Images = imageCache{}

func (c imageCache) Resolve(ctx context.Context, req machine.ImageRequest) (*machine.ImageLease, error) {
	return c.store.Resolve(ctx, req)
}

func (c imageCache) List(ctx context.Context) ([]httpapi.CachedImage, error) {
	list, err := c.store.List(ctx)
	out := make([]httpapi.CachedImage, len(list))
	for i, info := range list {
		out[i] = cached(info)
	}
	return out, err
}

func (c imageCache) Lookup(ctx context.Context, ref string) (httpapi.CachedImage, error) {
	info, err := c.store.Inspect(ctx, ref)
	return cached(info), err
}

func (c imageCache) Import(ctx context.Context, name string, archive io.Reader) (machine.Image, error) {
	return c.store.Import(ctx, archive, image.ImportRequest{Name: name})
}

func (c imageCache) Delete(ctx context.Context, ref string) error { return c.store.Delete(ctx, ref) }

func (c imageCache) Prune(ctx context.Context, unusedFor time.Duration) ([]httpapi.CachedImage, int64, error) {
	gone, freed, err := c.store.Prune(ctx, unusedFor)
	out := make([]httpapi.CachedImage, len(gone))
	for i, info := range gone {
		out[i] = cached(info)
	}
	return out, freed, err
}

func cached(info image.Info) httpapi.CachedImage {
	return httpapi.CachedImage{Image: info.Image, Refs: info.Refs, InUse: info.InUse, Created: info.Created, LastUsed: info.LastUsed}
}
