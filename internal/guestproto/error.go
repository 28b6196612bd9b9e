package guestproto

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Errors that end a session or a stream.
var (
	// ErrBroken is wrapped by every error of a stream whose session has ended:
	// the request may or may not have been carried out.
	ErrBroken = errors.New("session broken")
	// ErrProtocol is wrapped when the peer broke a rule of the protocol.
	ErrProtocol = errors.New("protocol violation")
	// ErrVersion is wrapped by a handshake between versions that do not fit.
	ErrVersion = errors.New("protocol version mismatch")
	// ErrIdle is wrapped when the peer was silent for too long.
	ErrIdle = errors.New("peer is silent")
	// ErrClosed is the reason of a session that Conn.Close ended.
	ErrClosed = errors.New("session closed")
	// ErrEnded is returned by operations on a stream that has ended well.
	ErrEnded = errors.New("stream has ended")
)

// Kind is the class of an Error; the values are those of package errdefs that
// a guest may use. The host reads an unknown kind as KindGuest.
type Kind string

// The kinds.
const (
	KindInvalid     Kind = "invalid"
	KindForbidden   Kind = "forbidden"
	KindNotFound    Kind = "not_found"
	KindConflict    Kind = "conflict"
	KindExhausted   Kind = "exhausted"
	KindUnsupported Kind = "unsupported"
	KindUnavailable Kind = "unavailable"
	KindTimeout     Kind = "timeout"
	KindGuest       Kind = "guest"
)

// Codes that both sides know. Others are the guest's own: [A-Z0-9_], up to 64.
const (
	CodeCanceled     = "CANCELED"          // the host's caller gave up
	CodeRefused      = "TOO_MANY_STREAMS"  // more than MaxStreams
	CodeUnknown      = "UNKNOWN_METHOD"    // no such method
	CodeBadRequest   = "BAD_REQUEST"       // the request does not decode or validate
	CodeNotReady     = "GUEST_NOT_READY"   // asked for before boot has ended
	CodeExecExists   = "EXEC_EXISTS"       // exec.start with an id in use
	CodeExecNotFound = "EXEC_NOT_FOUND"    // attach or signal of an unknown id
	CodeExecTaken    = "EXEC_TAKEN_OVER"   // another stream attached to the command
	CodeExecEnded    = "EXEC_ENDED"        // signal to a command that has ended
	CodeOutputGone   = "EXEC_OUTPUT_GONE"  // reserved: output dropped for memory
	CodeTooMany      = "TOO_MANY_EXECS"    // the guest's own limit
	CodeNoUser       = "EXEC_USER_UNKNOWN" // user not in the guest's passwd
	CodeNoWorkDir    = "EXEC_WORKDIR"      // working directory cannot be entered
	CodeGuest        = "GUEST_ERROR"       // an error without a code of its own
	CodeBadAnswer    = "GUEST_BAD_ANSWER"  // the answer does not decode
	CodeBoot         = "GUEST_BOOT_FAILED" // the guest could not set itself up
)

// MaxErrorText is how long the message of an Error may be, in bytes.
const MaxErrorText = 1024

// Error is how a request fails, as it crosses the wire in a RESET frame.
type Error struct {
	Kind    Kind   `json:"kind"`
	Code    string `json:"code"`            // stable, upper snake case
	Message string `json:"message"`         // one line, public
	Errno   int    `json:"errno,omitempty"` // Linux errno when a system call failed, else 0
}

// Errorf makes an Error.
func Errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// clean bounds and sanitizes what came from, or goes to, a peer.
func (e *Error) clean() *Error {
	out := *e
	out.Kind = Kind(cleanText(string(e.Kind), 32))
	out.Code = cleanText(e.Code, 64)
	out.Message = cleanText(e.Message, MaxErrorText)
	if out.Errno < 0 || out.Errno > 4095 { // MAX_ERRNO, include/linux/err.h
		out.Errno = 0
	}
	return &out
}

// cleanText makes one printable line of at most limit bytes.
func cleanText(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(s, "\uFFFD"))
	for len(s) > limit {
		s = s[:limit]
		for len(s) > 0 && !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return s
}
