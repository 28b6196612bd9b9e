package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// as is a client whose requests come from a key.
func (a *api) as(key auth.KeyID) *hyperfleet.Client {
	a.t.Helper()
	h := a.server.Handler()
	ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(auth.WithCaller(r.Context(), auth.Caller{KeyID: key, Scopes: auth.Scopes{auth.All}})))
	}))
	c := &hyperfleet.Client{Host: ts.URL, MaxRetries: -1}
	a.t.Cleanup(func() {
		c.CloseIdleConnections()
		ts.Close()
	})
	return c
}

// Two keys share nothing: not the answers to their requests, not their quotas,
// not their places.
func TestKeysAreSeparate(t *testing.T) {
	world := machinetest.NewHost(t).Daemon(t).Config()
	world.Limits.Owner = machine.Quota{Machines: 1}
	m, err := machine.NewManager(world)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	a := newAPI(t, func(c *Config) { c.Machines, c.KeyMaxExecs = m, 1 })
	one, two := a.as("one"), a.as("two")
	req := hyperfleet.CreateMachineRequest{Name: "m", VCPUCount: 1, MemSizeMiB: 64, Image: "alpine"}
	first, err1 := one.CreateMachine(t.Context(), req, hyperfleet.IdempotencyKey("k"))
	second, err2 := two.CreateMachine(t.Context(), req, hyperfleet.IdempotencyKey("k"))
	again, err3 := two.CreateMachine(t.Context(), req, hyperfleet.IdempotencyKey("k"))
	if err := errors.Join(err1, err2, err3); err != nil || first.ID == second.ID || again.ID != second.ID {
		t.Fatalf("%s, %s, %s, %v", first.ID, second.ID, again.ID, err)
	}
	_, err = one.CreateMachine(t.Context(), req)
	e, ok := errors.AsType[*hyperfleet.Error](err)
	if !ok || !errors.Is(err, hyperfleet.ErrQuota) || len(e.Details) != 1 || e.Details[0].Location != "quota.key.machines" {
		t.Errorf("a second machine: %v", err)
	}
	if rec, err := m.Get(t.Context(), machine.ID(first.ID)); err != nil || rec.Owner != "one" {
		t.Errorf("owner %q, %v", rec.Owner, err)
	}
	if _, err := a.CreateMachine(t.Context(), req); err != nil {
		t.Errorf("a local caller: %v", err)
	}

	if _, err := one.StartMachine(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := one.ExecStream(ctx, first.ID, hyperfleet.ExecRequest{Command: []string{"sleep"}, ExecID: "s"}, hyperfleet.ExecIO{})
		done <- err
	}()
	await(t, "the command runs", func() bool { return a.holds(first.ID, "s") })
	command := hyperfleet.ExecRequest{Command: []string{"true"}}
	if _, err := one.Exec(t.Context(), first.ID, command); !errors.Is(err, hyperfleet.ErrThrottled) {
		t.Errorf("a second command: %v", err)
	}
	if _, err := two.Exec(t.Context(), first.ID, command); err != nil {
		t.Errorf("another key's command: %v", err)
	}
	cancel()
	<-done
}
