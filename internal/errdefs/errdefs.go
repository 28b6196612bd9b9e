// Package errdefs gives every error that can reach a caller a kind, a stable
// code and a public message.
//
// The kind decides the HTTP status (the only kind-to-status table is in
// package httpapi, its inverse in the client), the code is what programs
// compare, the message is what people read. The wrapped cause is for the log
// alone: it never crosses the API. An error that carries no kind is Internal.
//
// The package is a leaf: it imports the standard library only.
package errdefs

import (
	"errors"
	"fmt"
)

// Kind is the class of an error.
type Kind string

// The closed set of kinds.
const (
	Invalid      Kind = "invalid"      // the request can never work as it stands
	Unauthorized Kind = "unauthorized" // no or wrong credentials
	Forbidden    Kind = "forbidden"    // known caller, not allowed
	NotFound     Kind = "not_found"    // the named thing does not exist
	Conflict     Kind = "conflict"     // the thing is in a state that excludes this
	Exhausted    Kind = "exhausted"    // a limit or quota: disk space, size, count
	Quota        Kind = "quota"        // what a caller or all may have is used up; more of it must be given back first
	Throttled    Kind = "throttled"    // too many at a time; a retry a little later may work
	Unsupported  Kind = "unsupported"  // this host or driver cannot do it
	Unavailable  Kind = "unavailable"  // something that we need is away; a retry may work
	Timeout      Kind = "timeout"      // a deadline passed
	Guest        Kind = "guest"        // the guest answered wrongly, or not at all
	Runtime      Kind = "runtime"      // the machine could not be started or ended
	Internal     Kind = "internal"     // a defect of ours
)

// Error is an error with a kind, a code and a public message.
// It is immutable once made.
type Error struct {
	Kind    Kind
	Code    string // stable, upper snake case: "IMAGE_NOT_FOUND"
	Message string // public, one line, no secret, no host path that the caller did not give
	Err     error  // cause, for the log; may be nil

	quoted bool // Message holds the text of Err
}

// Error returns the public message followed by the cause, unless the message
// holds the cause's text already.
func (e *Error) Error() string {
	if e.Err == nil || e.quoted {
		return e.Message
	}
	return e.Message + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New makes an error of a kind and code whose message is formatted.
// A %w verb sets the cause; its text is then part of the public message, so
// wrap only what callers may read. Use Wrap to keep a cause private.
func New(kind Kind, code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Code: code, Message: err.Error(), Err: errors.Unwrap(err), quoted: true}
}

// Wrap gives cause a kind, a code and a public message. The text of cause is
// not part of the message. Wrap of a nil cause is New.
func Wrap(cause error, kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// KindOf returns the kind of the first Error in err's chain, or Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// CodeOf returns the code of the first Error in err's chain, or "INTERNAL_ERROR".
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return "INTERNAL_ERROR"
}

// Public returns the message that a caller may see: that of the first Error in
// err's chain, or a constant one for an error without a kind.
func Public(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Message
	}
	return "An unexpected error occurred"
}

// Is reports whether err is of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }
