//go:build host

package httpapi

import (
	"context"
	"flag"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

var (
	fuzzExamples = flag.Int("schemathesis.examples", 40, "examples that schemathesis makes for each operation and phase")
	fuzzSeed     = flag.Int("schemathesis.seed", 0, "seed for the same examples again; 0: new ones")
)

// hospitable is Machines for a fuzzer, which knows the ids of few machines: one
// that never was is, for calls that change no state, a machine that runs. And it
// waits no longer than a fuzzer likes to, and follows no log.
type hospitable struct {
	Machines
	host machine.ID
	gone sync.Map // machine.ID of deleted ones
}

func (h *hospitable) guest(ctx context.Context, id machine.ID) machine.ID {
	if _, was := h.gone.Load(id); was {
		return id
	}
	if _, err := h.Machines.Get(ctx, id); errdefs.Is(err, errdefs.NotFound) {
		return h.host
	}
	return id
}

func (h *hospitable) Get(ctx context.Context, id machine.ID) (machine.Machine, error) {
	return h.Machines.Get(ctx, h.guest(ctx, id))
}

func (h *hospitable) Wait(ctx context.Context, id machine.ID, state machine.State) (machine.Machine, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	return h.Machines.Wait(ctx, h.guest(ctx, id), state)
}

func (h *hospitable) Delete(ctx context.Context, id machine.ID) error {
	h.gone.Store(id, true)
	return h.Machines.Delete(ctx, id)
}

func (h *hospitable) Exec(ctx context.Context, id machine.ID, req machine.ExecRequest) (machine.Process, error) {
	return h.Machines.Exec(ctx, h.guest(ctx, id), req)
}

func (h *hospitable) AttachExec(ctx context.Context, id machine.ID, execID string, from machine.Offsets) (machine.Process, error) {
	return h.Machines.AttachExec(ctx, h.guest(ctx, id), execID, from)
}

func (h *hospitable) Guest(ctx context.Context, id machine.ID) (machine.Guest, error) {
	return h.Machines.Guest(ctx, h.guest(ctx, id))
}

func (h *hospitable) Console(ctx context.Context, id machine.ID) (io.ReadCloser, error) {
	return h.Machines.Console(ctx, h.guest(ctx, id))
}

func (h *hospitable) Logs(ctx context.Context, id machine.ID, req machine.LogRequest) (*machine.LogReader, error) {
	req.Follow = false
	return h.Machines.Logs(ctx, h.guest(ctx, id), req)
}

// What the document says and what the server does are the same, for requests
// that nobody has thought of, under both prefixes.
func TestSchemathesis(t *testing.T) {
	for name, prefix := range map[string]string{"root": "", "prefix": apiPrefix} {
		t.Run(name, func(t *testing.T) {
			machines := &hospitable{}
			a := newAPI(t, func(c *Config) {
				machines.Machines, c.Machines = c.Machines, machines
				c.Log = slog.New(strictLog{slog.DiscardHandler, t})
			})
			machines.host = machine.ID(a.running().ID)
			args := []string{
				"run", a.http.URL + "/openapi.json", "--url", a.http.URL + prefix + "/",
				"--max-examples", strconv.Itoa(*fuzzExamples),
			}
			if *fuzzSeed != 0 {
				args = append(args, "--seed", strconv.Itoa(*fuzzSeed))
			}
			out, err := exec.CommandContext(t.Context(), filepath.Join("..", "..", "scripts", "schemathesis"), args...).CombinedOutput()
			_, summary, _ := strings.Cut(string(out), "= SUMMARY =")
			t.Log(summary)
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
