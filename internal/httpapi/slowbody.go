package httpapi

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

const (
	bodyStall   = 30 * time.Second // the most between two reads
	bodyStart   = 60 * time.Second // of waiting that the slowest body gets beside its bytes
	bodyMinRate = 4 << 10          // bytes per second
)

// slowBody ends a request body that comes too slowly, be it by long pauses or
// by a trickle. Only the time in Read counts, and the connection's deadline is
// set for that time only: a handler may take its own between two reads.
type slowBody struct {
	io.ReadCloser
	ctl    *http.ResponseController
	waited time.Duration
	read   int64
}

func newSlowBody(w http.ResponseWriter, body io.ReadCloser) io.ReadCloser {
	if body == nil || body == http.NoBody {
		return http.NoBody
	}
	return &slowBody{ReadCloser: body, ctl: http.NewResponseController(w)}
}

func (b *slowBody) Read(p []byte) (int, error) {
	began := time.Now()
	patience := bodyStart + time.Duration(b.read/bodyMinRate)*time.Second - b.waited
	// A writer without deadlines (in a test, say) reads without one.
	_ = b.ctl.SetReadDeadline(began.Add(min(patience, bodyStall)))
	n, err := b.ReadCloser.Read(p)
	_ = b.ctl.SetReadDeadline(time.Time{})
	b.waited += time.Since(began)
	b.read += int64(n)
	return n, err
}

// bodyError is the answer to a body that could not be read to its end.
func bodyError(err error) *apiError {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return refusal(http.StatusRequestTimeout, "the request body came too slowly")
	}
	return refusal(http.StatusBadRequest, "the request body could not be read")
}
