package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hyperfleet/hyperfleet"
)

// Exit codes that are not a command's own.
const (
	exitTimeout  = 124 // the command's timeout passed, as timeout(1) has it
	exitError    = 125 // an error of ours, as docker run has it
	exitBySignal = 128 // plus the number of the signal
)

// exitCode ends the program with a command's own status and no message.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("the command ended with status %d", int(c)) }

// statusError is an error with an exit code of its own.
type statusError struct {
	error
	code int
}

func (e statusError) Unwrap() error { return e.error }

// withStatus makes the program end with code because of err, if any.
func withStatus(err error, code int) error {
	if err == nil {
		return nil
	}
	return statusError{err, code}
}

// report prints err and returns the exit code for it.
func (g *globals) report(err error) int {
	if err == nil {
		return 0
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if sig, ok := errors.AsType[signalError](err); ok {
		fmt.Fprintln(g.Stderr, "hyperfleet: interrupted")
		return exitBySignal + sig.number
	}
	status := exitError
	if own, ok := errors.AsType[statusError](err); ok {
		status = own.code
	}
	if g.output == "json" {
		body := hyperfleet.ErrorBody{Error: "error", Message: err.Error()}
		if e, ok := errors.AsType[*hyperfleet.Error](err); ok {
			body = hyperfleet.ErrorBody{Error: e.Name, Message: e.Message, Code: e.Code, Details: e.Details}
		}
		if json.NewEncoder(g.Stderr).Encode(body) == nil {
			return status
		}
	}
	fmt.Fprintf(g.Stderr, "hyperfleet: %v\n", err)
	if errors.Is(err, hyperfleet.ErrNoDaemon) && strings.Contains(err.Error(), "permission denied") {
		fmt.Fprintln(g.Stderr, "hyperfleet: the daemon's socket belongs to another user: run as root, or set HYPERFLEET_HOST")
	}
	return status
}

// resultError is how a command's end becomes the program's.
func resultError(res hyperfleet.ExecResult) error {
	switch {
	case res.TimedOut:
		return exitCode(exitTimeout)
	case res.Signal != "":
		return exitCode(exitBySignal + signalNumber(res.Signal))
	case res.ExitCode != 0:
		return exitCode(res.ExitCode)
	}
	return nil
}
