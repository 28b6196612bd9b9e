package httpapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// errorClass is how one kind of error looks to callers.
type errorClass struct {
	kind   errdefs.Kind
	status int
	name   string // "error" of the body
}

// classes is the only table from error kind to HTTP status; its inverse is in
// the client (errors.go of the root package).
var classes = []errorClass{
	{errdefs.Invalid, http.StatusBadRequest, "ValidationError"},
	{errdefs.Unauthorized, http.StatusUnauthorized, "unauthorized"},
	{errdefs.Forbidden, http.StatusForbidden, "forbidden"},
	{errdefs.NotFound, http.StatusNotFound, "NotFoundError"},
	{errdefs.Conflict, http.StatusConflict, "ConflictError"},
	{errdefs.Exhausted, http.StatusInsufficientStorage, "ExhaustedError"},
	{errdefs.Quota, http.StatusConflict, "QuotaExceededError"},
	{errdefs.Throttled, http.StatusTooManyRequests, "TooManyRequestsError"},
	{errdefs.Unsupported, http.StatusNotImplemented, "UnsupportedError"},
	{errdefs.Unavailable, http.StatusServiceUnavailable, "UnavailableError"},
	{errdefs.Timeout, http.StatusGatewayTimeout, "TimeoutError"},
	{errdefs.Guest, http.StatusBadGateway, "VsockError"},
	{errdefs.Runtime, http.StatusInternalServerError, "RuntimeError"},
	{errdefs.Internal, http.StatusInternalServerError, "internal_error"},
}

// codeNames are codes whose class has a name of its own in the contract.
var codeNames = map[string]string{
	"PATH_TRAVERSAL_ERROR": "PathTraversalError",
	"CIRCUIT_OPEN_ERROR":   "CircuitOpenError",
}

// apiError is an answer that is an error. Its JSON form is that of ErrorBody,
// or the nested one for callers that ask for it.
type apiError struct {
	status int
	body   hyperfleet.ErrorBody
	nested bool
}

func (e *apiError) Error() string  { return e.body.Message }
func (e *apiError) GetStatus() int { return e.status }

// MarshalJSON writes the form that the caller asked for.
func (e *apiError) MarshalJSON() ([]byte, error) {
	if e.nested {
		return json.Marshal(nest(e.body))
	}
	return json.Marshal(e.body)
}

// ContentType is the media type of that form.
func (e *apiError) ContentType(plain string) string {
	if e.nested {
		return mediaNested
	}
	return plain
}

// Schema documents the error as what it looks like.
func (e *apiError) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(errorBodyType, true, "Error")
}

// publicError gives err the form that callers see.
func publicError(err error) *apiError {
	kind, code := errdefs.KindOf(err), errdefs.CodeOf(err)
	e := &apiError{body: hyperfleet.ErrorBody{Message: errdefs.Public(err), Code: code}}
	for _, c := range classes {
		if c.kind == kind {
			e.status, e.body.Error = c.status, c.name
		}
	}
	if e.status == 0 {
		e.status, e.body.Error = http.StatusInternalServerError, "internal_error"
	}
	if name, ok := codeNames[code]; ok {
		e.body.Error = name
	}
	e.body.Details = limitDetails(err)
	return e
}

// limitDetails says what of a limit is used, and what is allowed.
func limitDetails(err error) []hyperfleet.ErrorDetail {
	if l, ok := errors.AsType[*limitError](err); ok {
		used, allowed := int64(l.used), int64(l.allowed)
		return []hyperfleet.ErrorDetail{{
			Location: "limit." + l.scope, Message: l.Error(), Used: &used, Allowed: &allowed,
		}}
	}
	q, ok := errors.AsType[*machine.QuotaError](err)
	if !ok {
		return nil
	}
	details := make([]hyperfleet.ErrorDetail, len(q.Shortages))
	for i, s := range q.Shortages {
		details[i] = hyperfleet.ErrorDetail{
			Location: "quota." + s.Scope + "." + s.Resource, Message: s.String(),
			Used: &s.Used, Asked: &s.Asked, Allowed: &s.Allowed,
		}
	}
	return details
}

// retryAfter is what a caller who asked too much at a time should wait, in
// seconds.
const retryAfter = "1"

// GetHeaders is for huma.
func (e *apiError) GetHeaders() http.Header {
	if e.status != http.StatusTooManyRequests {
		return nil
	}
	return http.Header{"Retry-After": {retryAfter}}
}

// refusals are errors of the transport, which no part of the domain makes.
var refusals = map[int]hyperfleet.ErrorBody{
	http.StatusBadRequest:            {Error: "validation_error", Code: "VALIDATION_ERROR"},
	http.StatusForbidden:             {Error: "forbidden", Code: "FORBIDDEN"},
	http.StatusNotFound:              {Error: "not_found", Code: "NOT_FOUND"},
	http.StatusMethodNotAllowed:      {Error: "method_not_allowed", Code: "METHOD_NOT_ALLOWED"},
	http.StatusRequestTimeout:        {Error: "TimeoutError", Code: "REQUEST_TIMEOUT"},
	http.StatusMisdirectedRequest:    {Error: "forbidden", Code: "HOST_NOT_ALLOWED"},
	http.StatusRequestEntityTooLarge: {Error: "PayloadTooLargeError", Code: "PAYLOAD_TOO_LARGE"},
	http.StatusTooManyRequests:       {Error: "TooManyRequestsError", Code: "TOO_MANY_REQUESTS"},
	http.StatusInternalServerError:   {Error: "internal_error", Code: "INTERNAL_ERROR"},
}

// refusal is the error of a status of the transport.
func refusal(status int, message string, details ...hyperfleet.ErrorDetail) *apiError {
	body, ok := refusals[status]
	if !ok {
		status, body = http.StatusBadRequest, refusals[http.StatusBadRequest]
	}
	body.Message, body.Details = message, details
	return &apiError{status: status, body: body}
}

// useOurErrors makes huma answer in our shape. huma's hook for that is a
// package variable; it is set once, before any handler exists.
var useOurErrors = sync.OnceFunc(func() {
	huma.NewErrorWithContext = func(hc huma.Context, status int, message string, errs ...error) huma.StatusError {
		e := fromHuma(status, message, errs)
		e.nested = wantsNested(hc.Header("Accept"))
		return e
	}
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return fromHuma(status, message, errs)
	}
})

// fromHuma turns what huma's validation found into our shape. The rejected
// values are left out: one may be a password.
func fromHuma(status int, message string, errs []error) *apiError {
	if status == http.StatusUnprocessableEntity {
		status = http.StatusBadRequest
	}
	details := make([]hyperfleet.ErrorDetail, 0, len(errs))
	for _, err := range errs {
		if d, ok := err.(huma.ErrorDetailer); ok {
			details = append(details, hyperfleet.ErrorDetail{Location: d.ErrorDetail().Location, Message: d.ErrorDetail().Message})
		}
	}
	if status == http.StatusInternalServerError {
		// The one such error of huma itself is a body that broke off.
		return refusal(http.StatusBadRequest, "the request body could not be read")
	}
	return refusal(status, message, details...)
}

// writeError answers with err outside of huma.
func writeError(w http.ResponseWriter, r *http.Request, e *apiError) {
	e.nested = wantsNested(r.Header.Get("Accept"))
	for name, values := range e.GetHeaders() {
		if w.Header().Get(name) == "" {
			w.Header()[name] = values
		}
	}
	w.Header().Set("Content-Type", e.ContentType(mediaJSON))
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(e) // the caller is gone if this fails
}
