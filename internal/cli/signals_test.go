package cli

import (
	"context"
	"errors"
	"syscall"
	"testing"
)

// A command that takes no signals cannot keep the program from ending.
func TestSecondSignalEndsProgram(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r := &signalRouter{cancel: cancel}
	signals, stop := r.forward()
	defer stop()
	r.route(syscall.SIGTERM)
	if ctx.Err() != nil {
		t.Fatal("the first signal is the command's")
	}
	r.route(syscall.SIGUSR1)
	r.route(syscall.SIGTERM)
	if sig, ok := errors.AsType[signalError](context.Cause(ctx)); !ok || sig.number != int(syscall.SIGTERM) {
		t.Errorf("after the second one: %v", context.Cause(ctx))
	}
	if name := <-signals; name != "SIGTERM" {
		t.Errorf("the command got %s", name)
	}
}
