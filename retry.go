package hyperfleet

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	defaultRetries = 3
	minBackoff     = 100 * time.Millisecond
	maxBackoff     = 2 * time.Second
	// maxRetryAfter is the longest wait that a server may ask for: beyond it
	// the error is the caller's to handle.
	maxRetryAfter = 30 * time.Second
)

// headerReplayed marks the answer that an earlier request with the same key got:
// asking again would only bring it once more.
const headerReplayed = "Idempotency-Replayed"

// safeToRepeat reports whether sending q twice is no more than sending it once:
// it only reads, or it has a key by which the server knows it again.
func (q call) safeToRepeat() bool {
	if q.once || q.body != nil {
		return false
	}
	return q.method == http.MethodGet || q.header.Get(headerIdempotencyKey) != ""
}

// retries is how often a call may be made again.
func (c *Client) retries(q call) int {
	switch {
	case c.MaxRetries < 0 || !q.safeToRepeat():
		return 0
	case c.MaxRetries == 0:
		return defaultRetries
	}
	return c.MaxRetries
}

// send makes the request, again where that is safe and may help, and returns
// the answer when it is no error. The caller closes its body.
func (c *Client) send(ctx context.Context, q call) (*http.Response, error) {
	backoff := minBackoff
	for left := c.retries(q); ; left-- {
		resp, err := c.try(ctx, q)
		if err == nil || left <= 0 || ctx.Err() != nil || !mayPass(err) {
			return resp, err
		}
		wait := backoff/2 + rand.N(backoff) // so that many clients do not come back at once
		if e, ok := errors.AsType[*Error](err); ok {
			if e.RetryAfter > maxRetryAfter {
				return nil, err
			}
			wait = max(wait, e.RetryAfter)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, err
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// mayPass reports whether the same request may succeed a moment later. That
// nobody listens is told at once: who wants to wait for a daemon asks Health.
func mayPass(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return errors.Is(err, errConnection) && !errors.Is(err, ErrNoDaemon)
	}
	return !e.replayed && (e.Status == http.StatusTooManyRequests || e.Status == http.StatusServiceUnavailable)
}

// retryAfter reads a Retry-After header: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil {
		return time.Duration(min(max(n, 0), 1<<30)) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
