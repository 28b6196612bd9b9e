package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
)

// keptHeaders are those of an answer that are kept with it.
var keptHeaders = []string{"Content-Type", "Location"}

// keptResponse holds an answer back until it is recorded. One that is larger
// than what is kept, or that is flushed since it is a stream, goes out as it
// comes. Its caller may be gone: the handler is not told, and does its work.
type keptResponse struct {
	http.ResponseWriter
	limit int

	status  int
	body    bytes.Buffer
	passing bool // what is written goes out at once
	dropped bool // body is not whole
}

// Unwrap lets http.ResponseController reach the connection.
func (k *keptResponse) Unwrap() http.ResponseWriter { return k.ResponseWriter }

// WriteHeader remembers the status.
func (k *keptResponse) WriteHeader(status int) {
	if k.status == 0 {
		k.status = status
	}
}

// Write keeps p. It never fails.
func (k *keptResponse) Write(p []byte) (int, error) {
	if k.status == 0 {
		k.status = http.StatusOK
	}
	if k.body.Len()+len(p) > k.limit && !k.dropped {
		k.send()
		k.dropped, k.body = true, bytes.Buffer{}
	}
	if !k.dropped {
		k.body.Write(p)
	}
	if k.passing {
		_, _ = k.ResponseWriter.Write(p)
	}
	return len(p), nil
}

// FlushError makes the answer a stream.
func (k *keptResponse) FlushError() error {
	k.send()
	_ = http.NewResponseController(k.ResponseWriter).Flush() // the caller may be gone
	return nil
}

// send lets out what was held back.
func (k *keptResponse) send() {
	if k.passing {
		return
	}
	k.passing = true
	if k.status == 0 {
		return // nothing was written
	}
	k.ResponseWriter.WriteHeader(k.status)
	_, _ = k.ResponseWriter.Write(k.body.Bytes())
}

func (k *keptResponse) statusCode() int {
	if k.status == 0 {
		return http.StatusOK // net/http's word for a handler that wrote nothing
	}
	return k.status
}

// errorCode is the code of an answer that is an error, in either of its forms.
func (k *keptResponse) errorCode() string {
	var plain hyperfleet.ErrorBody
	if json.Unmarshal(k.body.Bytes(), &plain) == nil && plain.Code != "" {
		return plain.Code
	}
	var nested nestedError
	if json.Unmarshal(k.body.Bytes(), &nested) == nil {
		return nested.Error.Code
	}
	return ""
}

// result is what is recorded of the answer.
func (k *keptResponse) result() idempotency.Result {
	r := idempotency.Result{Status: k.statusCode(), Header: map[string]string{}, Body: k.body.Bytes(), Dropped: k.dropped}
	for _, name := range keptHeaders {
		if value := k.Header().Get(name); value != "" {
			r.Header[name] = value
		}
	}
	return r
}
