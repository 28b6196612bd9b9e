//go:build host

package httpapi

import (
	"context"
	"encoding/binary"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/auth"
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

// kept are keys of which one is never revoked: the fuzzer's own.
type kept struct {
	Keys
	id auth.KeyID
}

func (k *kept) Revoke(ctx context.Context, id auth.KeyID) error {
	if id == k.id {
		return errdefs.New(errdefs.NotFound, "NOT_FOUND", "it is needed")
	}
	return k.Keys.Revoke(ctx, id)
}

// manyAddresses gives each request an address of its own, since many wrong keys
// from one are slowed down.
func manyAddresses(next http.Handler) http.Handler {
	var n atomic.Uint32
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], 10<<24+n.Add(1))
		r.RemoteAddr = netip.AddrPortFrom(netip.AddrFrom4(ip), 1).String()
		next.ServeHTTP(w, r)
	})
}

// What the document says and what the server does are the same, for requests
// that nobody has thought of, under both prefixes.
func TestSchemathesis(t *testing.T) {
	for name, prefix := range map[string]string{"root": "", "prefix": apiPrefix} {
		t.Run(name, func(t *testing.T) {
			machines, keys := &hospitable{}, &kept{}
			a := newAPI(t, func(c *Config) {
				machines.Machines, c.Machines = c.Machines, machines
				keys.Keys, c.Keys = c.Keys, keys
				c.Log = slog.New(strictLog{slog.DiscardHandler, t})
			})
			machines.host = machine.ID(a.running().ID)
			key, secret, err := a.keys.Create(t.Context(), auth.LocalCaller(), auth.CreateRequest{Name: "fuzzer", Scopes: auth.Scopes{auth.All}})
			if err != nil {
				t.Fatal(err)
			}
			keys.id = key.ID
			server := httptest.NewServer(manyAddresses(a.server.Handler()))
			defer server.Close()
			args := []string{
				"run", server.URL + "/openapi.json", "--url", server.URL + prefix + "/",
				"--header", "Authorization: Bearer " + secret.Reveal(),
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
