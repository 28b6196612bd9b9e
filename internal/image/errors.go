package image

import (
	"context"
	"errors"
	"syscall"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// errTimeout is the cause of a flight's end at Limits.Time.
var errTimeout = errdefs.New(errdefs.Timeout, "IMAGE_TIMEOUT", "image took too long to pull and convert")

// errClosed is the cause of a flight's end at Close.
var errClosed = errdefs.New(errdefs.Unavailable, "IMAGE_STORE_CLOSED", "image store is shutting down")

// explain gives errors of the host their kind.
func explain(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	for _, full := range []error{syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, full) {
			return errdefs.Wrap(err, errdefs.Exhausted, "DISK_FULL", "no disk space left for the image")
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func notFound(ref string) error {
	return errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %q not found", ref)
}

func inUse(ref string) error {
	return errdefs.New(errdefs.Conflict, "IMAGE_IN_USE", "image %q is used by a machine", ref)
}

func exceedsCache(size, limit int64) error {
	return errdefs.New(errdefs.Exhausted, "IMAGE_EXCEEDS_CACHE", "image takes %d bytes of disk space, the whole cache may take %d", size, limit)
}

func storeLocked(cause error) error {
	return errdefs.Wrap(cause, errdefs.Conflict, "IMAGE_STORE_LOCKED", "image directory is used by another daemon")
}

func tooLargeConfig() error {
	return errdefs.New(errdefs.Exhausted, "IMAGE_MANIFEST_TOO_LARGE", "image config has more than %d values or %d bytes", maxConfigItems, maxConfigBytes)
}
