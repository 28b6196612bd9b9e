package hyperfleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// The sentinels that an [*Error] matches, one for each kind of the server's
// errors. Compare with errors.Is.
var (
	ErrInvalid      = errors.New("invalid request")
	ErrUnauthorized = errors.New("unauthorized")
	ErrForbidden    = errors.New("forbidden")
	ErrNotFound     = errors.New("not found")
	ErrConflict     = errors.New("conflict")
	ErrExhausted    = errors.New("limit reached")
	ErrQuota        = errors.New("quota used up")
	ErrThrottled    = errors.New("too many at a time")
	ErrUnsupported  = errors.New("unsupported on this host")
	ErrUnavailable  = errors.New("unavailable")
	ErrTimeout      = errors.New("timed out")
	ErrGuest        = errors.New("the guest did not answer as it should")
	ErrRuntime      = errors.New("the machine could not be run")
	ErrInternal     = errors.New("internal error")
)

// ErrNoDaemon says that nothing answers at the client's Host.
var ErrNoDaemon = errors.New("no Hyperfleet daemon answers")

// Error is an error that the server answered with.
type Error struct {
	Status    int           // HTTP status
	Name      string        // class as the API names it: "ValidationError", "not_found"
	Code      string        // stable, upper snake case: "IMAGE_NOT_FOUND"
	Message   string        // for people
	Details   []ErrorDetail // which fields were wrong, for a refused body
	RequestID string        // to be found in the daemon's log

	// RetryAfter is how long the server asks to wait before another try; 0 when
	// it does not.
	RetryAfter time.Duration

	replayed bool // of an earlier request with the same key
}

// ErrorDetail is one wrong field of a request, or one limit that is reached.
type ErrorDetail struct {
	Location string `json:"location,omitempty" doc:"Where, for example body.vcpu_count"`
	Message  string `json:"message" doc:"What is wrong with it"`

	// Of a quota or limit that is reached; nil otherwise.
	Used    *int64 `json:"used,omitempty" doc:"How much is used"`
	Asked   *int64 `json:"asked,omitempty" doc:"How much more was asked for"`
	Allowed *int64 `json:"allowed,omitempty" doc:"How much there may be"`
}

// ErrorBody is the body of every answer that is an error.
type ErrorBody struct {
	Error   string        `json:"error" doc:"Class of the error" example:"ValidationError"`
	Message string        `json:"message" doc:"What went wrong, for people"`
	Code    string        `json:"code" doc:"Stable code, for programs" example:"VALIDATION_ERROR"`
	Details []ErrorDetail `json:"details,omitempty" doc:"The wrong fields of a refused request"`
}

// Error returns the message, the details and the code.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Message)
	for i, d := range e.Details {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		fmt.Fprintf(&b, "%s%s: %s", sep, d.Location, d.Message)
	}
	if e.Code != "" {
		fmt.Fprintf(&b, " (%s)", e.Code)
	}
	return b.String()
}

// Is reports whether target is the sentinel of e's kind.
func (e *Error) Is(target error) bool { return e.kind() == target }

// kind is the inverse of the server's table from kind to status and name. The
// name decides, since two kinds share a status; an unknown name (an answer of
// a proxy) leaves the status.
func (e *Error) kind() error {
	for _, k := range kinds {
		if k.name == e.Name {
			return k.err
		}
	}
	for _, k := range kinds {
		if k.status == e.Status {
			return k.err
		}
	}
	return ErrInternal
}

var kinds = []struct {
	status int
	name   string
	err    error
}{
	{http.StatusBadRequest, "ValidationError", ErrInvalid},
	{http.StatusBadRequest, "validation_error", ErrInvalid},
	{http.StatusBadRequest, "PathTraversalError", ErrInvalid},
	{http.StatusRequestEntityTooLarge, "PayloadTooLargeError", ErrInvalid},
	{http.StatusMethodNotAllowed, "method_not_allowed", ErrInvalid},
	{http.StatusUnauthorized, "unauthorized", ErrUnauthorized},
	{http.StatusForbidden, "forbidden", ErrForbidden},
	{http.StatusNotFound, "NotFoundError", ErrNotFound},
	{http.StatusNotFound, "not_found", ErrNotFound},
	{http.StatusConflict, "ConflictError", ErrConflict},
	{http.StatusInsufficientStorage, "ExhaustedError", ErrExhausted},
	{http.StatusConflict, "QuotaExceededError", ErrQuota},
	{http.StatusTooManyRequests, "TooManyRequestsError", ErrThrottled},
	{http.StatusNotImplemented, "UnsupportedError", ErrUnsupported},
	{http.StatusServiceUnavailable, "UnavailableError", ErrUnavailable},
	{http.StatusServiceUnavailable, "CircuitOpenError", ErrUnavailable},
	{http.StatusGatewayTimeout, "TimeoutError", ErrTimeout},
	{http.StatusBadGateway, "VsockError", ErrGuest},
	{http.StatusInternalServerError, "internal_error", ErrInternal},
	{http.StatusInternalServerError, "RuntimeError", ErrRuntime},
}

// maxErrorBody bounds what is read of an answer that is an error.
const maxErrorBody = 1 << 20

func responseError(resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		return fmt.Errorf("read the answer %s: %w", resp.Status, err)
	}
	e := newError(resp.StatusCode, resp.Header.Get(headerRequestID), raw)
	e.RetryAfter = retryAfter(resp.Header, time.Now())
	e.replayed = resp.Header.Get(headerReplayed) != ""
	return e
}

func newError(status int, requestID string, raw []byte) *Error {
	e := &Error{Status: status, RequestID: requestID}
	var body ErrorBody
	if json.Unmarshal(raw, &body) == nil && body.Error != "" {
		e.Name, e.Message, e.Code, e.Details = body.Error, body.Message, body.Code, body.Details
		return e
	}
	e.Message = "the server answered " + http.StatusText(status)
	return e
}
