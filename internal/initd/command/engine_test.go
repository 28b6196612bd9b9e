package command_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
)

func TestReleaseForgets(t *testing.T) {
	h := newEngine(t)
	ended := h.start(h.request("true"))
	h.ended(ended)
	running := h.start(h.request("sh", "-c", "read x <&0; sleep 300"))
	h.Release([]string{"c1", "c2", "unknown"})
	_, err := h.Get(t.Context(), "c1")
	requireCode(t, err, guestproto.CodeExecNotFound)
	if _, err := h.Get(t.Context(), "c2"); err != nil {
		t.Errorf("running command was forgotten: %v", err)
	}
	requireNoError(t, running.Signal(unix.SIGKILL))
	h.ended(running)
	_, err = h.Get(t.Context(), "c2")
	requireCode(t, err, guestproto.CodeExecNotFound)
}

func TestEndedCommandsAreBounded(t *testing.T) {
	h := newEngine(t)
	for range guestproto.MaxFinished + 10 {
		h.ended(h.start(h.request("/no/such")))
	}
	_, err := h.Get(t.Context(), "c1")
	requireCode(t, err, guestproto.CodeExecNotFound)
	if _, err := h.Get(t.Context(), fmt.Sprintf("c%d", guestproto.MaxFinished+10)); err != nil {
		t.Error(err)
	}
}

func TestClosedEngineStartsNothing(t *testing.T) {
	h := newEngine(t)
	h.Close()
	_, err := h.Start(h.request("true"))
	requireCode(t, err, guestproto.CodeNotReady)
}

// A host whose session broke looks for the command that it asked for: one that
// waits to be started is found, and one that could not be started is not.
func TestGetWaitsForStart(t *testing.T) {
	for name, tt := range map[string]struct{ dir, code string }{
		"started": {dir: "/"},
		"failed":  {dir: "/no/such/folder", code: guestproto.CodeExecNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := command.NewEngine(command.Config{})
				release := e.HoldLaunches()
				go e.Start(command.Request{ID: "a", Argv: []string{"/no/such"}, Dir: tt.dir})
				synctest.Wait()
				got := make(chan error, 1)
				go func() {
					_, err := e.Get(t.Context(), "a")
					got <- err
				}()
				synctest.Wait()
				if len(got) != 0 {
					t.Fatalf("did not wait: %v", <-got)
				}
				release()
				if err := <-got; tt.code != "" {
					requireCode(t, err, tt.code)
				} else if err != nil {
					t.Error(err)
				}
			})
		})
	}
}
