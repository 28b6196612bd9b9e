package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// afterCut says what becomes of an operation that was cut off by the daemon's
// end, when its request comes again.
type afterCut bool

const (
	runAgain afterCut = true  // it does no harm twice, or finds what it has made
	refuse   afterCut = false // nobody can tell whether it ran
)

var errNotIdempotent = errdefs.New(errdefs.Unsupported, "UNSUPPORTED", "this server keeps no Idempotency-Key")

// idempotent makes an operation take an Idempotency-Key. Requests without one
// pay for the look at a header.
func (s *Server) idempotent(op huma.Operation, cut afterCut) huma.Operation {
	one, most := 1, 255
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: headerIdempotencyKey, In: "header",
		Description: "Names the request: another one with the same key and content gets the answer of the first, for 24 hours, with `" + headerReplayed + ": true`. See docs/limits.md.",
		Schema:      &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &most, Pattern: "^[ -~]+$"},
	})
	op.Middlewares = append(op.Middlewares, func(hc huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(hc)
		values, ok := r.Header[headerIdempotencyKey]
		if !ok {
			next(hc)
			return
		}
		if err := s.once(hc.Context(), r, w, values, hc.Operation(), cut, next); err != nil {
			writeError(w, r, s.failure(hc.Context(), err))
		}
	})
	return op
}

// takesKey reports whether idempotent was applied.
func takesKey(op *huma.Operation) bool {
	for _, p := range op.Parameters {
		if p.Name == headerIdempotencyKey {
			return true
		}
	}
	return false
}

// once does a request's work, or replays what came of it. It returns an error
// as long as nothing is written.
func (s *Server) once(ctx context.Context, r *http.Request, w http.ResponseWriter, values []string, op *huma.Operation, cut afterCut, next func(huma.Context)) error {
	key, err := requestKeyOf(ctx, r, values)
	if err != nil {
		return err
	}
	if s.cfg.Idempotency == nil {
		return errNotIdempotent
	}
	body, err := readWhole(r.Body, op.MaxBodyBytes)
	if err != nil {
		return err
	}
	attempt, result, err := s.cfg.Idempotency.Begin(ctx, idempotency.Request{
		Key: key, Operation: op.OperationID, Fingerprint: fingerprint(r, body),
		Reference: string(machine.NewID()), Repeatable: bool(cut),
	})
	if err != nil {
		return err
	}
	if result != nil {
		replay(w, result)
		return nil
	}
	s.attempt(ctx, attempt, cut, op, r, body, w, next)
	return nil
}

// requestKeyOf is the key of the header, of the caller.
func requestKeyOf(ctx context.Context, r *http.Request, values []string) (idempotency.Key, error) {
	if len(values) != 1 {
		return idempotency.Key{}, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "Idempotency-Key must be given once")
	}
	if r.Header.Get("Upgrade") != "" {
		return idempotency.Key{}, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "a streamed command is named by its exec_id and takes no Idempotency-Key")
	}
	value, err := idempotency.ParseKey(values[0])
	caller, _ := auth.CallerFrom(ctx)
	return idempotency.Key{Caller: string(caller.KeyID), Value: value}, err
}

// readWhole reads a body as huma would, with its errors.
func readWhole(body io.Reader, most int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(body, most+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refusal(http.StatusRequestTimeout, refusalExamples[http.StatusRequestTimeout])
	case err != nil:
		return nil, refusal(http.StatusBadRequest, "the request body could not be read")
	case int64(len(raw)) > most:
		return nil, refusal(http.StatusRequestEntityTooLarge, "request body is too large")
	}
	return raw, nil
}

// fingerprint is a hash of all that makes the request what it is. Two forms of
// the same JSON have the same.
func fingerprint(r *http.Request, body []byte) idempotency.Fingerprint {
	h := sha256.New()
	enc := json.NewEncoder(h)
	stream := strings.Contains(r.Header.Get("Accept"), ndjson)
	_ = enc.Encode([]any{r.Method, r.URL.Path, r.URL.Query(), stream}) // strings are encoded, and a hash takes all
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var value any
	if dec.Decode(&value) != nil || dec.More() || enc.Encode(value) != nil {
		h.Write(body)
	}
	return idempotency.Fingerprint(h.Sum(nil))
}

// replay answers with what an earlier request got.
func replay(w http.ResponseWriter, result *idempotency.Result) {
	for name, value := range result.Header {
		w.Header().Set(name, value)
	}
	w.Header().Set(headerReplayed, "true")
	w.WriteHeader(result.Status)
	_, _ = w.Write(result.Body) // the caller is gone if this fails
}

// attempt does the work, records what came of it, and answers. The work goes on
// when its caller leaves: who asks again gets its result. It ends with the
// Server.
func (s *Server) attempt(ctx context.Context, a *idempotency.Attempt, cut afterCut, op *huma.Operation, r *http.Request, body []byte, w http.ResponseWriter, next func(huma.Context)) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(errClosing) })()
	o := &onceOnly{attempt: a}
	kept := &keptResponse{ResponseWriter: w, limit: idempotency.MaxBody}
	r = r.WithContext(context.WithValue(ctx, onceKey{}, o))
	r.Body = io.NopCloser(bytes.NewReader(body))
	if len(body) == 0 {
		r.Body = http.NoBody
	}
	panicked := true
	defer func() {
		if panicked {
			a.Leave()
			return // the connection breaks: nothing of the answer goes out
		}
		if o.unknown || ctx.Err() != nil && kept.statusCode() >= http.StatusInternalServerError {
			a.Leave()
		} else {
			s.settle(ctx, o, cut, kept)
		}
		kept.send()
	}()
	next(humago.NewContext(op, r, kept))
	panicked = false
}

// settle records the answer, or that there is none to keep.
func (s *Server) settle(ctx context.Context, o *onceOnly, cut afterCut, kept *keptResponse) {
	end := o.attempt.Forget
	if o.final(cut, kept) {
		end = func(ctx context.Context) error { return o.attempt.Finish(ctx, kept.result()) }
	}
	if err := end(ctx); err != nil {
		s.logger(ctx).Error("record an idempotency key", "err", err) // the work is done: its caller gets the answer
	}
}

// onceOnly is the attempt behind a request, for its handler.
type onceOnly struct {
	attempt *idempotency.Attempt
	begun   bool // the work has had an effect: whatever follows is its result
	unknown bool // nobody knows how far the work has come
	failed  bool // a streamed answer has told of a failure that may pass
}

type onceKey struct{}

// onceOf is nil for a request without a key.
func onceOf(ctx context.Context) *onceOnly {
	o, _ := ctx.Value(onceKey{}).(*onceOnly)
	return o
}

// setBegun notes that a retry must not do the work again.
func (o *onceOnly) setBegun() {
	if o != nil {
		o.begun = true
	}
}

// setUnknown notes that the attempt was cut off.
func (o *onceOnly) setUnknown() {
	if o != nil {
		o.unknown = true
	}
}

// setFailed notes that a retry should do the work again.
func (o *onceOnly) setFailed() {
	if o != nil {
		o.failed = true
	}
}

// final reports whether the answer is the result of the request, for a day. It
// is not when the request was refused before anything was done, or when what
// stood in its way may pass: the next request then does the work.
func (o *onceOnly) final(cut afterCut, kept *keptResponse) bool {
	if o.begun {
		return true
	}
	switch status := kept.statusCode(); {
	case o.failed:
		return false
	case status == http.StatusBadRequest, status == http.StatusRequestEntityTooLarge, status == http.StatusRequestTimeout,
		status == http.StatusTooManyRequests, status == http.StatusServiceUnavailable, status == http.StatusInsufficientStorage:
		return false
	case status == http.StatusConflict:
		return kept.errorCode() != codeQuota
	case status >= http.StatusInternalServerError:
		return cut == refuse
	}
	return true
}
