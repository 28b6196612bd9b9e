package httpapi

import (
	"io"
	"net/http"
	"time"
)

const (
	bodyStall   = 30 * time.Second // the most between two reads
	bodyStart   = 60 * time.Second // what the slowest body gets beside its bytes
	bodyMinRate = 4 << 10          // bytes per second
)

// slowBody ends a request body that comes too slowly, be it by long pauses or
// by a trickle. The connection's deadline is set during a Read only, since the
// handler may take its time after it.
type slowBody struct {
	io.ReadCloser
	ctl   *http.ResponseController
	began time.Time
	read  int64
}

func newSlowBody(w http.ResponseWriter, body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody {
		return http.NoBody
	}
	return &slowBody{ReadCloser: body, ctl: http.NewResponseController(w)}
}

func (b *slowBody) Read(p []byte) (int, error) {
	now := time.Now()
	if b.began.IsZero() {
		b.began = now
	}
	deadline := b.began.Add(bodyStart + time.Duration(b.read/bodyMinRate)*time.Second)
	if stall := now.Add(bodyStall); stall.Before(deadline) {
		deadline = stall
	}
	// A writer without deadlines (in a test, say) reads without one.
	_ = b.ctl.SetReadDeadline(deadline)
	n, err := b.ReadCloser.Read(p)
	_ = b.ctl.SetReadDeadline(time.Time{})
	b.read += int64(n)
	return n, err
}
