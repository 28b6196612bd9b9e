package guest

import (
	"context"
	"errors"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

// class is what an error number means for a caller.
type class struct {
	kind errdefs.Kind
	code string
}

// errnos is by Linux number (include/uapi/asm-generic/errno-base.h and
// errno.h), whatever the host's system is. Others are GUEST_ERROR.
var errnos = map[int]class{
	1:   {errdefs.Forbidden, "FILE_PERMISSION"},         // EPERM
	2:   {errdefs.NotFound, "FILE_NOT_FOUND"},           // ENOENT
	3:   {errdefs.NotFound, "PROCESS_NOT_FOUND"},        // ESRCH
	5:   {errdefs.Guest, "GUEST_IO_ERROR"},              // EIO
	11:  {errdefs.Exhausted, "GUEST_RESOURCES"},         // EAGAIN
	12:  {errdefs.Exhausted, "GUEST_RESOURCES"},         // ENOMEM
	13:  {errdefs.Forbidden, "FILE_PERMISSION"},         // EACCES
	16:  {errdefs.Conflict, "FILE_BUSY"},                // EBUSY
	17:  {errdefs.Conflict, "FILE_EXISTS"},              // EEXIST
	18:  {errdefs.Invalid, "FILE_OTHER_FILE_SYSTEM"},    // EXDEV
	20:  {errdefs.Invalid, "FILE_NOT_A_DIRECTORY"},      // ENOTDIR
	21:  {errdefs.Invalid, "FILE_IS_A_DIRECTORY"},       // EISDIR
	22:  {errdefs.Invalid, "FILE_INVALID"},              // EINVAL
	23:  {errdefs.Exhausted, "GUEST_RESOURCES"},         // ENFILE
	24:  {errdefs.Exhausted, "GUEST_RESOURCES"},         // EMFILE
	26:  {errdefs.Conflict, "FILE_BUSY"},                // ETXTBSY
	27:  {errdefs.Exhausted, "FILE_TOO_LARGE"},          // EFBIG
	28:  {errdefs.Exhausted, "GUEST_NO_SPACE"},          // ENOSPC
	30:  {errdefs.Forbidden, "FILE_SYSTEM_READ_ONLY"},   // EROFS
	31:  {errdefs.Exhausted, "FILE_TOO_MANY_LINKS"},     // EMLINK
	36:  {errdefs.Invalid, "FILE_NAME_TOO_LONG"},        // ENAMETOOLONG
	39:  {errdefs.Conflict, "FILE_DIRECTORY_NOT_EMPTY"}, // ENOTEMPTY
	40:  {errdefs.Invalid, "FILE_TOO_MANY_LINKS"},       // ELOOP
	95:  {errdefs.Unsupported, "GUEST_UNSUPPORTED"},     // EOPNOTSUPP
	110: {errdefs.Timeout, "GUEST_TIMEOUT"},             // ETIMEDOUT
	122: {errdefs.Exhausted, "GUEST_NO_SPACE"},          // EDQUOT
}

// kinds are those that a guest may use.
var kinds = map[guestproto.Kind]errdefs.Kind{
	guestproto.KindInvalid:     errdefs.Invalid,
	guestproto.KindForbidden:   errdefs.Forbidden,
	guestproto.KindNotFound:    errdefs.NotFound,
	guestproto.KindConflict:    errdefs.Conflict,
	guestproto.KindExhausted:   errdefs.Exhausted,
	guestproto.KindUnsupported: errdefs.Unsupported,
	guestproto.KindUnavailable: errdefs.Unavailable,
	guestproto.KindTimeout:     errdefs.Timeout,
	guestproto.KindGuest:       errdefs.Guest,
}

// classify finds the kind and code of a guest's error. A code of the guest's
// own goes before the error number.
func classify(e *guestproto.Error) class {
	if c, ok := errnos[e.Errno]; ok && (e.Code == guestproto.CodeGuest || !validCode(e.Code)) {
		return c
	}
	c := class{errdefs.Guest, guestproto.CodeGuest}
	if kind, ok := kinds[e.Kind]; ok {
		c.kind = kind
	}
	if validCode(e.Code) {
		c.code = e.Code
	}
	return c
}

// validCode keeps a guest from putting anything but a code into a code.
func validCode(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// public makes what a caller of the session may see of err: op says what was
// tried. An error that has a kind already is passed on.
func (s *Session) public(op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*errdefs.Error](err); ok {
		return err
	}
	if e, ok := errors.AsType[*guestproto.Error](err); ok {
		c := classify(e)
		return errdefs.New(c.kind, c.code, "%s: %s", op, e.Message)
	}
	switch {
	case s.ctx.Err() != nil:
		return s.closedError()
	case errors.Is(err, guestproto.ErrBroken):
		return errdefs.Wrap(err, errdefs.Unavailable, "GUEST_CONNECTION_LOST",
			"%s: connection to the guest of machine %s was lost", op, s.id)
	case errors.Is(err, context.DeadlineExceeded):
		return errdefs.Wrap(err, errdefs.Timeout, "GUEST_TIMEOUT",
			"%s: the guest of machine %s did not answer in time", op, s.id)
	case errors.Is(err, context.Canceled):
		return errdefs.Wrap(err, errdefs.Unavailable, guestproto.CodeCanceled, "%s: canceled", op)
	default:
		return errdefs.Wrap(err, errdefs.Internal, "INTERNAL_ERROR", "%s: unexpected error", op)
	}
}
