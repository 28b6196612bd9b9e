package machine

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Causes that end a start from outside.
var (
	errStopping error = errdefs.New(errdefs.Conflict, "START_CANCELLED", "start was cancelled: the machine is being stopped")
	errClosing  error = errdefs.New(errdefs.Unavailable, "SHUTTING_DOWN", "the daemon is shutting down")
)

// errUnfinished is the reason of a machine whose start an earlier daemon left
// half done.
var errUnfinished error = errdefs.New(errdefs.Runtime, "START_INTERRUPTED", "the daemon ended while the machine was starting")

// NotFoundError is what every method answers for an unknown machine.
func NotFoundError(id ID) error {
	return errdefs.Wrap(fmt.Errorf("machine %q", id), errdefs.NotFound, "NOT_FOUND", "Machine not found")
}

// waitError says why ctx ended a wait.
func waitError(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, context.DeadlineExceeded) {
		return errdefs.Wrap(cause, errdefs.Timeout, "TIMEOUT_ERROR", "Timed out waiting for the machine")
	}
	return cause
}

// classified gives an error without a kind the kind Runtime and a public
// message; one that has a kind keeps it, with its code and message. A host
// without disk space is told of in whatever step it is found.
func classified(err error, message string) error {
	e, known := errors.AsType[*errdefs.Error](err)
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && (!known || e.Kind == errdefs.Runtime) {
		return errdefs.Wrap(err, errdefs.Exhausted, "DISK_FULL", "no disk space left: %s", message)
	}
	if known {
		return err
	}
	return errdefs.Wrap(err, errdefs.Runtime, "RUNTIME_ERROR", "%s", message)
}
