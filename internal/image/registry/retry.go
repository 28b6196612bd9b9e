package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// fewAttempts bounds how often one request is made without any progress.
const fewAttempts = 4

// errStalled ends an attempt in which nothing arrives.
var errStalled = errors.New("registry sends nothing")

// attempt is one try of something. Its context ends when touch has not been
// called for the stall timeout.
type attempt func(ctx context.Context, touch func()) (progress bool, err error)

// retry makes attempts until one succeeds, one fails for good, or fewAttempts
// in a row have made no progress.
func (c *Client) retry(ctx context.Context, try attempt) error {
	pause := c.opts.RetryPause
	for failed := 1; ; failed++ {
		progress, err := c.once(ctx, try)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if progress {
			failed, pause = 1, c.opts.RetryPause
		}
		if failed >= fewAttempts || !temporary(err) {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
		pause *= 2
	}
}

func (c *Client) once(ctx context.Context, try attempt) (bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(c.opts.StallTimeout, func() { cancel(errStalled) })
	defer watch.Stop()
	progress, err := try(ctx, func() { watch.Reset(c.opts.StallTimeout) })
	if err != nil && errors.Is(context.Cause(ctx), errStalled) {
		err = errStalled
	}
	return progress, err
}

// touching calls touch whenever bytes arrive.
type touching struct {
	r     io.Reader
	touch func()
}

func (t touching) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.touch()
	}
	return n, err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// temporary reports whether another attempt may do better.
func temporary(err error) bool {
	if _, ok := errors.AsType[*errdefs.Error](err); ok || errors.Is(err, errRefused) {
		return false
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return false
	}
	if e, ok := errors.AsType[*transport.Error](err); ok {
		return e.StatusCode == http.StatusRequestTimeout || e.StatusCode == http.StatusTooManyRequests || e.StatusCode >= 500
	}
	return true // of the network
}
