package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/idempotency/idempotencytest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/store"
)

const newMachine = `{"name":"m","vcpu_count":1,"mem_size_mib":64,"image":"alpine"}`

// counting counts what the API asks of the domain, and can fail or hold it.
type counting struct {
	Machines
	creates, starts, stops, deletes, execs atomic.Int32
	start                                  func(context.Context) error // nil: goes on
}

func (c *counting) Create(ctx context.Context, req machine.CreateRequest) (machine.Machine, error) {
	c.creates.Add(1)
	return c.Machines.Create(ctx, req)
}

func (c *counting) Start(ctx context.Context, id machine.ID) (machine.Machine, error) {
	c.starts.Add(1)
	if c.start != nil {
		if err := c.start(ctx); err != nil {
			return machine.Machine{}, err
		}
	}
	return c.Machines.Start(ctx, id)
}

func (c *counting) Stop(ctx context.Context, id machine.ID) (machine.Machine, error) {
	c.stops.Add(1)
	return c.Machines.Stop(ctx, id)
}

func (c *counting) Delete(ctx context.Context, id machine.ID) error {
	c.deletes.Add(1)
	return c.Machines.Delete(ctx, id)
}

func (c *counting) Exec(ctx context.Context, id machine.ID, req machine.ExecRequest) (machine.Process, error) {
	c.execs.Add(1)
	return c.Machines.Exec(ctx, id, req)
}

func newCountingAPI(t *testing.T, change ...func(*Config)) (*api, *counting) {
	t.Helper()
	c := &counting{}
	return newAPI(t, append(change, func(cfg *Config) {
		c.Machines = cfg.Machines
		cfg.Machines = c
	})...), c
}

func TestIdempotencyReplaysEachOperation(t *testing.T) {
	a, c := newCountingAPI(t)
	id := a.running().ID
	before := c.creates.Load()
	for _, op := range []struct {
		name, method, path, body string
		status                   int
		did                      func() int32
	}{
		{"create", "POST", "/machines", newMachine, 201, func() int32 { return c.creates.Load() - before }},
		{"exec", "POST", "/machines/" + id + "/exec", `{"command":["echo","hi"]}`, 200, c.execs.Load},
		{"pull", "POST", "/images/pull", `{"image":"alpine"}`, 200, func() int32 { return int32(len(a.images.list)) }},
		{"start", "POST", "/machines/" + id + "/start", "", 200, func() int32 { return c.starts.Load() - 1 }},
		{"stop", "POST", "/machines/" + id + "/stop", "", 200, c.stops.Load},
		{"delete", "DELETE", "/machines/" + id, "", 204, c.deletes.Load},
	} {
		t.Run(op.name, func(t *testing.T) {
			first, body := a.ask(op.method, op.path, op.body, headerIdempotencyKey, op.name)
			if first.StatusCode != op.status || first.Header.Get(headerReplayed) != "" {
				t.Fatalf("first: %d %v %s", first.StatusCode, first.Header, body)
			}
			for _, path := range []string{op.path, apiPrefix + op.path} {
				again, same := a.ask(op.method, path, op.body, headerIdempotencyKey, op.name, headerRequestID, "again")
				if again.StatusCode != op.status || same != body || again.Header.Get(headerReplayed) != "true" ||
					again.Header.Get("Content-Type") != first.Header.Get("Content-Type") || again.Header.Get(headerRequestID) != "again" {
					t.Errorf("again: %d %v %s, first %s", again.StatusCode, again.Header, same, body)
				}
			}
			if n := op.did(); n != 1 {
				t.Errorf("done %d times", n)
			}
			other, answer := a.ask("POST", "/machines", `{"name":"other"}`, headerIdempotencyKey, op.name)
			if other.StatusCode != 409 || !strings.Contains(answer, "IDEMPOTENCY_KEY_REUSED") {
				t.Errorf("another request: %d %s", other.StatusCode, answer)
			}
		})
	}
}

func TestIdempotencyKeyIsChecked(t *testing.T) {
	a, c := newCountingAPI(t)
	for _, key := range []string{"", strings.Repeat("k", 256), "é"} {
		if resp, body := a.ask("POST", "/machines", newMachine, headerIdempotencyKey, key); resp.StatusCode != 400 {
			t.Errorf("%q: %d %s", key, resp.StatusCode, body)
		}
	}
	// The same JSON in another form is the same request.
	_, first := a.ask("POST", "/machines", newMachine, headerIdempotencyKey, "k")
	_, again := a.ask("POST", "/machines/", `{ "image": "alpine", "name": "\u006d", "mem_size_mib":64, "vcpu_count":1}`, headerIdempotencyKey, "k")
	if again != first {
		t.Errorf("%s, then %s", first, again)
	}
	resp, body := a.ask("POST", "/machines/"+a.running().ID+"/exec", `{"command":["true"]}`, headerIdempotencyKey, "s", "Upgrade", hyperfleet.ExecProtocol)
	if resp.StatusCode != 400 || !strings.Contains(body, "exec_id") {
		t.Errorf("a stream: %d %s", resp.StatusCode, body)
	}
	if resp, body := a.ask("POST", "/machines", `{"name":"`+strings.Repeat("x", 1<<20)+`"}`, headerIdempotencyKey, "large"); resp.StatusCode != 413 {
		t.Errorf("a large body: %d %s", resp.StatusCode, body)
	}
	if n := c.creates.Load(); n != 2 {
		t.Errorf("%d creates", n)
	}
}

// Without the header nothing is looked up or written.
func TestIdempotencyIsByHeaderOnly(t *testing.T) {
	records := idempotencytest.NewStore()
	a := newAPI(t, func(c *Config) {
		c.Idempotency = idempotency.NewKeeper(records, idempotency.DefaultBounds(), c.Log)
	})
	a.running()
	if n := records.Len(); n != 0 {
		t.Errorf("%d records", n)
	}
	if resp, _ := a.ask("GET", "/machines", "", headerIdempotencyKey, ""); resp.StatusCode != 200 {
		t.Errorf("an operation that takes no key: %d", resp.StatusCode)
	}
	off := newAPI(t, func(c *Config) { c.Idempotency = nil })
	if resp, body := off.ask("POST", "/machines", newMachine, headerIdempotencyKey, "k"); resp.StatusCode != 501 {
		t.Errorf("a server without: %d %s", resp.StatusCode, body)
	}
}

func TestIdempotencyManyAtOnce(t *testing.T) {
	a, c := newCountingAPI(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := map[string]int{}
	for range 50 {
		wg.Go(func() {
			m, err := a.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{Name: "m", VCPUCount: 1, MemSizeMiB: 64, Image: "alpine"}, hyperfleet.IdempotencyKey("k"))
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[m.ID]++
		})
	}
	wg.Wait()
	if len(ids) != 1 || c.creates.Load() != 1 {
		t.Errorf("machines %v, %d creates", ids, c.creates.Load())
	}
}

// Callers do not see each other's results.
func TestIdempotencyIsPerCaller(t *testing.T) {
	as := func(c auth.Caller) idempotency.Key {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/machines", nil)
		k, err := requestKeyOf(auth.WithCaller(t.Context(), c), r, []string{"k"})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	one, two, local := as(auth.Caller{KeyID: "one"}), as(auth.Caller{KeyID: "two"}), as(auth.LocalCaller())
	if one == two || one == local || two == local || one.Caller != "one" {
		t.Errorf("%v, %v, %v", one, two, local)
	}
}

// What stood in the way for a moment is not the result; what the request met is.
func TestIdempotencyWhatIsKept(t *testing.T) {
	for _, c := range []struct {
		kind errdefs.Kind
		code string
		kept bool
	}{
		{errdefs.NotFound, "NOT_FOUND", true},
		{errdefs.Conflict, "STATE_CONFLICT", true},
		{errdefs.Unsupported, "UNSUPPORTED", false},
		{errdefs.Quota, codeQuota, false},
		{errdefs.Throttled, "TOO_MANY_REQUESTS", false},
		{errdefs.Exhausted, "DISK_FULL", false},
		{errdefs.Unavailable, "DATABASE_BUSY", false},
		{errdefs.Timeout, "GUEST_TIMEOUT", false},
		{errdefs.Internal, "INTERNAL_ERROR", false},
		{errdefs.Invalid, "VALIDATION_ERROR", false},
	} {
		t.Run(c.code, func(t *testing.T) {
			a, calls := newCountingAPI(t)
			calls.start = func(context.Context) error { return errdefs.New(c.kind, c.code, "no") }
			first, _ := a.ask("POST", "/machines/m1/start", "", headerIdempotencyKey, "k")
			again, body := a.ask("POST", "/machines/m1/start", "", headerIdempotencyKey, "k")
			if again.StatusCode != first.StatusCode || (again.Header.Get(headerReplayed) == "true") != c.kept || (calls.starts.Load() == 1) != c.kept {
				t.Errorf("%d, then %d %v %s after %d starts", first.StatusCode, again.StatusCode, again.Header, body, calls.starts.Load())
			}
		})
	}
}

// The caller leaves; the work goes on, and who asks again gets its result.
func TestIdempotencyOutlivesItsCaller(t *testing.T) {
	a, c := newCountingAPI(t)
	m, err := a.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{Name: "m", VCPUCount: 1, MemSizeMiB: 64, Image: "alpine"})
	if err != nil {
		t.Fatal(err)
	}
	begun, goOn := make(chan struct{}), make(chan struct{})
	c.start = func(ctx context.Context) error {
		close(begun)
		<-goOn
		return ctx.Err()
	}
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := a.StartMachine(ctx, m.ID, hyperfleet.IdempotencyKey("k"))
		left <- err
	}()
	<-begun
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left: %v", err)
	}
	again := make(chan error, 1)
	go func() {
		got, err := a.StartMachine(t.Context(), m.ID, hyperfleet.IdempotencyKey("k"))
		if err == nil && got.Status != hyperfleet.StatusRunning {
			err = fmt.Errorf("status %s", got.Status)
		}
		again <- err
	}()
	close(goOn)
	if err := <-again; err != nil || c.starts.Load() != 1 {
		t.Errorf("%v after %d starts", err, c.starts.Load())
	}
}

// Work without its caller ends with the server, as cut off.
func TestIdempotencyEndsWithTheServer(t *testing.T) {
	a, c := newCountingAPI(t)
	begun := make(chan struct{}, 1)
	c.start = func(ctx context.Context) error {
		begun <- struct{}{}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	answered := make(chan int, 1)
	go func() {
		resp, _ := a.ask("POST", "/machines/m1/start", "", headerIdempotencyKey, "k")
		answered <- resp.StatusCode
	}()
	<-begun
	a.server.Stop()
	if status := <-answered; status != 503 {
		t.Errorf("status %d", status)
	}
}

// A daemon died after it had recorded the key, and before the result.
func TestIdempotencyAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	open := func() *store.Store {
		s, err := store.Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	var keeper *idempotency.Keeper
	use := func(c *Config) { c.Idempotency = keeper }
	die := func(s *store.Store, method, path, op, body, reference string) {
		k := idempotency.NewKeeper(s, idempotency.DefaultBounds(), slog.New(slog.DiscardHandler))
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		if _, _, err := k.Begin(t.Context(), idempotency.Request{
			Key: idempotency.Key{Value: op}, Operation: op, Fingerprint: fingerprint(r, []byte(body)), Reference: reference,
		}); err != nil {
			t.Fatal(err)
		}
	}
	s := open()
	keeper = idempotency.NewKeeper(s, idempotency.DefaultBounds(), slog.New(slog.DiscardHandler))
	a, c := newCountingAPI(t, use)
	m := a.running()
	execPath, command := "/machines/"+m.ID+"/exec", `{"command":["echo","once"]}`
	die(s, "POST", "/machines", "createMachine", newMachine, m.ID) // the machine was made
	die(s, "POST", execPath, "exec", command, "")
	die(s, "POST", "/machines/"+m.ID+"/start", "startMachine", "", "")
	die(s, "DELETE", "/machines/"+m.ID, "deleteMachine", "", "")

	creates := c.creates.Load()
	resp, body := a.ask("POST", "/machines", newMachine, headerIdempotencyKey, "createMachine")
	if resp.StatusCode != 201 || !strings.Contains(body, m.ID) || c.creates.Load() != creates {
		t.Errorf("create: %d %s", resp.StatusCode, body)
	}
	resp, body = a.ask("POST", execPath, command, headerIdempotencyKey, "exec")
	if resp.StatusCode != 409 || !strings.Contains(body, "IDEMPOTENCY_OUTCOME_UNKNOWN") || c.execs.Load() != 0 {
		t.Errorf("exec: %d %s", resp.StatusCode, body)
	}
	if resp, body = a.ask("POST", "/machines/"+m.ID+"/start", "", headerIdempotencyKey, "startMachine"); resp.StatusCode != 200 {
		t.Errorf("start: %d %s", resp.StatusCode, body)
	}
	// A new command, and the store of the next daemon.
	_, first := a.ask("POST", execPath, command, headerIdempotencyKey, "new")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	next := httptest.NewServer(nextDaemon(t, a, idempotency.NewKeeper(s, idempotency.DefaultBounds(), slog.New(slog.DiscardHandler))))
	defer next.Close()
	a.http.URL, c = next.URL, nil
	resp, body = a.ask("POST", execPath, command, headerIdempotencyKey, "new")
	if resp.StatusCode != 200 || body != first || resp.Header.Get(headerReplayed) != "true" {
		t.Errorf("the next daemon: %d %s, want %s", resp.StatusCode, body, first)
	}
	if resp, body = a.ask("DELETE", "/machines/"+m.ID, "", headerIdempotencyKey, "deleteMachine"); resp.StatusCode != 204 {
		t.Errorf("delete: %d %s", resp.StatusCode, body)
	}
}

// nextDaemon is a second server on the same machines.
func nextDaemon(t *testing.T, a *api, k *idempotency.Keeper) http.Handler {
	t.Helper()
	cfg := a.server.cfg
	cfg.Idempotency = k
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.TrustedHandler()
}

// A large answer goes out, and is not kept.
func TestIdempotencyLargeAnswer(t *testing.T) {
	a, c := newCountingAPI(t)
	path := "/machines/" + a.running().ID + "/exec"
	body := fmt.Sprintf(`{"command":["cat"],"stdin":%q}`, strings.Repeat("x", idempotency.MaxBody+1))
	resp, answer := a.ask("POST", path, body, headerIdempotencyKey, "k")
	if resp.StatusCode != 200 || len(answer) < idempotency.MaxBody {
		t.Fatalf("%d, %d bytes", resp.StatusCode, len(answer))
	}
	resp, answer = a.ask("POST", path, body, headerIdempotencyKey, "k")
	if resp.StatusCode != 409 || !strings.Contains(answer, "IDEMPOTENCY_RESULT_NOT_KEPT") || c.execs.Load() != 1 {
		t.Errorf("again: %d %s", resp.StatusCode, answer)
	}
}

// A pull with progress is replayed with its events; one that failed is not.
func TestIdempotencyStreamedPull(t *testing.T) {
	a := newAPI(t)
	header := []string{headerIdempotencyKey, "k", "Accept", ndjson}
	_, first := a.ask("POST", "/images/pull", `{"image":"alpine"}`, header...)
	resp, again := a.ask("POST", "/images/pull", `{"image":"alpine"}`, header...)
	if again != first || resp.Header.Get(headerReplayed) != "true" || resp.Header.Get("Content-Type") != ndjson || len(a.images.list) != 1 {
		t.Errorf("%v %s, first %s", resp.Header, again, first)
	}
	header[1] = "missing"
	for range 2 {
		if resp, body := a.ask("POST", "/images/pull", `{"image":"missing"}`, header...); resp.Header.Get(headerReplayed) != "" || !strings.Contains(body, "IMAGE_NOT_FOUND") {
			t.Errorf("%v %s", resp.Header, body)
		}
	}
}

func FuzzFingerprint(f *testing.F) {
	f.Add([]byte(`{"a":1,"b":[1.0,"x"]}`))
	f.Add([]byte(`{"a":1}{`))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/machines?q=1", nil)
		if again := bytes.Clone(body); fingerprint(r, body) != fingerprint(r, again) {
			t.Error("not the same twice")
		}
		if fingerprint(r, body) == fingerprint(httptest.NewRequestWithContext(t.Context(), "POST", "/machines?q=2", nil), body) {
			t.Error("the query does not count")
		}
	})
}
