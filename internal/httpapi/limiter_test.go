package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestLimiterOfKeysAndAll(t *testing.T) {
	l := newLimiter("commands", "TOO_MANY_EXECS", 3, 2)
	as := func(id string) context.Context {
		return auth.WithCaller(t.Context(), auth.Caller{KeyID: auth.KeyID(id)})
	}
	local := auth.WithCaller(t.Context(), auth.LocalCaller())
	take := func(ctx context.Context) func() {
		t.Helper()
		release, err := l.take(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	full := func(ctx context.Context, scope string, used, allowed int) {
		t.Helper()
		_, err := l.take(ctx)
		e, ok := errors.AsType[*limitError](err)
		if !ok || !errdefs.Is(err, errdefs.Throttled) || e.scope != scope || e.used != used || e.allowed != allowed {
			t.Errorf("error %v, cause %+v", err, e)
		}
	}
	one := take(as("a"))
	take(as("a"))
	full(as("a"), "key", 2, 2)
	third := take(local)
	full(local, "host", 3, 3)
	full(as("b"), "host", 3, 3)
	one()
	one() // called again, it gives nothing more
	take(as("a"))
	full(as("a"), "key", 2, 2)
	forced := l.force(as("a"))
	third()
	forced()
	take(local)
	if l.total != 3 || l.keys["a"] != 2 {
		t.Errorf("total %d, keys %v", l.total, l.keys)
	}
}

func TestLimiterUnderConcurrency(t *testing.T) {
	l := newLimiter("commands", "TOO_MANY_EXECS", 7, 0)
	var now, most atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			release, err := l.take(t.Context())
			if err != nil {
				return
			}
			defer release()
			n := now.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			now.Add(-1)
		})
	}
	wg.Wait()
	if most.Load() > 7 || l.total != 0 {
		t.Errorf("%d at a time, %d left", most.Load(), l.total)
	}
}

// Commands of every kind count until they have ended.
func TestExecsAreLimited(t *testing.T) {
	a := newAPI(t, func(c *Config) { c.MaxExecs = 1 })
	id := a.running().ID
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := a.ExecStream(ctx, id, hyperfleet.ExecRequest{Command: []string{"sleep"}, ExecID: "s"}, hyperfleet.ExecIO{})
		done <- err
	}()
	await(t, "the command runs", func() bool { return a.holds(id, "s") })
	for _, header := range [][]string{nil, {"Upgrade", hyperfleet.ExecProtocol, "Connection", "Upgrade"}, {headerIdempotencyKey, "k"}} {
		resp, body := a.ask("POST", "/machines/"+id+"/exec", `{"command":["true"]}`, header...)
		if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, `"used":1,"allowed":1`) || !strings.Contains(body, "TOO_MANY_EXECS") {
			t.Errorf("%v: %d %v %s", header, resp.StatusCode, resp.Header, body)
		}
	}
	_, err := a.Exec(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"true"}})
	if e, ok := errors.AsType[*hyperfleet.Error](err); !ok || !errors.Is(err, hyperfleet.ErrThrottled) || len(e.Details) != 1 || *e.Details[0].Allowed != 1 {
		t.Errorf("error %v", err)
	}
	cancel()
	<-done
	await(t, "its place is free", func() bool {
		_, err := a.Exec(t.Context(), id, hyperfleet.ExecRequest{Command: []string{"true"}}, hyperfleet.IdempotencyKey("k"))
		return err == nil // what was refused for a moment is no result
	})
	if a.server.execLimit.total != 0 {
		t.Errorf("%d are left", a.server.execLimit.total)
	}
}

// slowImages resolves when it is told to.
type slowImages struct {
	*fakeImages
	begun, goOn chan struct{}
}

func (s slowImages) Resolve(ctx context.Context, req machine.ImageRequest) (*machine.ImageLease, error) {
	s.begun <- struct{}{}
	<-s.goOn
	return s.fakeImages.Resolve(ctx, req)
}

func TestPullsAreLimited(t *testing.T) {
	slow := slowImages{&fakeImages{}, make(chan struct{}), make(chan struct{})}
	a := newAPI(t, func(c *Config) { c.Images, c.MaxPulls = slow, 1 })
	done := make(chan error, 1)
	go func() {
		_, err := a.PullImage(t.Context(), hyperfleet.PullRequest{Image: "alpine"}, nil)
		done <- err
	}()
	<-slow.begun
	for _, path := range []string{"/images/pull", "/images/import?name=x"} {
		if resp, body := a.ask("POST", path, `{"image":"alpine"}`); resp.StatusCode != 429 || !strings.Contains(body, "TOO_MANY_PULLS") {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	close(slow.goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	await(t, "its place is free", func() bool {
		resp, _ := a.ask("POST", "/images/import?name=x", "words")
		return resp.StatusCode == 200
	})
}

// withQuota is an API on machines of which there may be so many.
func withQuota(t *testing.T, q machine.Quota) func(*Config) {
	t.Helper()
	cfg := machinetest.NewHost(t).Daemon(t).Config()
	cfg.Limits.Host = q
	m, err := machine.NewManager(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return func(c *Config) { c.Machines = m }
}

// The answer says what is used and what is allowed.
func TestQuotaOverTheAPI(t *testing.T) {
	a := newAPI(t, withQuota(t, machine.Quota{Machines: 1}))
	if resp, body := a.ask("POST", "/machines", newMachine); resp.StatusCode != 201 {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	resp, body := a.ask("POST", "/machines", newMachine, headerIdempotencyKey, "k")
	if resp.StatusCode != 409 || !strings.Contains(body, `"location":"quota.host.machines"`) || !strings.Contains(body, `"used":1,"asked":1,"allowed":1`) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	_, err := a.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{Name: "m", VCPUCount: 1, MemSizeMiB: 64, Image: "alpine"})
	if !errors.Is(err, hyperfleet.ErrQuota) || errors.Is(err, hyperfleet.ErrConflict) {
		t.Errorf("error %v", err)
	}
	list, err := a.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	if err := a.DeleteMachine(t.Context(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	if resp, body := a.ask("POST", "/machines", newMachine, headerIdempotencyKey, "k"); resp.StatusCode != 201 {
		t.Errorf("the same request, once there is room: %d %s", resp.StatusCode, body)
	}
}

// slowSender gives a byte after each pause, until its deadline.
type slowSender struct {
	http.ResponseWriter
	pause    time.Duration
	deadline time.Time
}

func (s *slowSender) SetReadDeadline(t time.Time) error { s.deadline = t; return nil }

func (s *slowSender) Read(p []byte) (int, error) {
	if d := time.Until(s.deadline); d < s.pause {
		time.Sleep(max(d, 0)) // the bubble's time
		return 0, context.DeadlineExceeded
	}
	time.Sleep(s.pause)
	return copy(p, "x"), nil
}

func (s *slowSender) Close() error { return nil }

// A body that comes in drops is cut off, however regular they are.
func TestSlowBodiesAreCutOff(t *testing.T) {
	for _, c := range []struct {
		name        string
		pause, most time.Duration
	}{
		{"a long pause", time.Hour, bodyStall},
		{"a trickle", 20 * time.Second, bodyStart + 20*time.Second},
		{"a faster one", 50 * time.Millisecond, bodyStart + time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowSender{pause: c.pause}
				began := time.Now()
				_, err := io.Copy(io.Discard, newSlowBody(s, s))
				if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > c.most {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}
