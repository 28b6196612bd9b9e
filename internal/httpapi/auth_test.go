package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
)

// keyed is the same server on a listener that asks for keys.
func (a *api) keyed() *api {
	a.t.Helper()
	ts := httptest.NewServer(a.server.Handler())
	k := *a
	k.http, k.Client = ts, &hyperfleet.Client{Host: ts.URL}
	a.t.Cleanup(func() {
		k.CloseIdleConnections()
		ts.Close()
	})
	return &k
}

// newKey makes a key, told to its header.
func (a *api) newKey(scopes ...auth.Scope) (auth.Key, auth.Secret) {
	a.t.Helper()
	key, secret, err := a.keys.Create(a.t.Context(), auth.LocalCaller(), auth.CreateRequest{Name: "test", Scopes: scopes})
	if err != nil {
		a.t.Fatal(err)
	}
	return key, secret
}

func bearer(s auth.Secret) []string { return []string{"Authorization", "Bearer " + s.Reveal()} }

// documented is an operation as the document tells of it.
type documented struct {
	method, path string
	id           string
	public       bool
	scope        auth.Scope
	responses    map[string]json.RawMessage
}

// operations are read from the OpenAPI document, so that none is forgotten.
func (a *api) operations() (list []documented) {
	a.t.Helper()
	_, body := a.ask("GET", "/openapi.json", "")
	var doc struct {
		Paths map[string]map[string]struct {
			OperationID string
			Security    *[]map[string][]string
			Responses   map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		a.t.Fatal(err)
	}
	for path, item := range doc.Paths {
		for method, op := range item {
			d := documented{method: strings.ToUpper(method), path: path, id: op.OperationID, responses: op.Responses}
			switch s := op.Security; {
			case s == nil:
				a.t.Errorf("%s declares no security: use needs, or public", op.OperationID)
				continue
			case len(*s) == 0:
				d.public = true
			default:
				d.scope = auth.Scope((*s)[0]["bearerAuth"][0])
				if len(*s) != 2 || !slices.Equal((*s)[1]["apiKey"], []string{string(d.scope)}) {
					a.t.Errorf("%s: security %v", op.OperationID, *s)
				}
			}
			list = append(list, d)
		}
	}
	return list
}

// url names things that are not there: a request that gets through ends in 404,
// or 400 for what it lacks, and changes nothing.
func (d documented) url() string {
	return strings.NewReplacer("{id}", "nosuch", "{exec_id}", "x", "{ref}", "no/such").Replace(d.path)
}

// publicOperations are what somebody without a key may use. The document and
// its page are open too.
var publicOperations = []string{"health", "ready", "version"}

// Every operation is refused without a key, refused with a key of every other
// scope and open to one of its own.
func TestDefect21ScopesAreEnforced(t *testing.T) {
	a := newAPI(t).keyed()
	secrets := map[auth.Scope]auth.Secret{}
	for _, scope := range auth.Known() {
		_, secrets[scope] = a.newKey(scope)
	}
	_, none := a.newKey()
	ops := a.operations()
	if len(ops) < 30 {
		t.Fatalf("%d operations", len(ops))
	}
	for _, op := range ops {
		if op.public != slices.Contains(publicOperations, op.id) {
			t.Errorf("%s is public: %v", op.id, op.public)
		}
		if op.public {
			if resp, body := a.ask(op.method, op.url(), ""); resp.StatusCode == 401 {
				t.Errorf("%s without a key: %s", op.id, body)
			}
			continue
		}
		if _, err := auth.ParseScope(string(op.scope)); err != nil || strings.HasSuffix(string(op.scope), "*") {
			t.Errorf("%s needs %s: %v", op.id, op.scope, err)
		}
		for _, status := range []string{"401", "403", "429"} {
			if op.responses[status] == nil {
				t.Errorf("%s does not tell of %s", op.id, status)
			}
		}
		for _, prefix := range []string{"", "/api/v1"} {
			a.requireUnauthorized(op.method, prefix+op.url(), "")
			a.requireForbidden(op, prefix, none)
			for scope, secret := range secrets {
				if !(auth.Scopes{scope}).Allows(op.scope) {
					a.requireForbidden(op, prefix, secret)
					continue
				}
				if op.id == "listMachines" || prefix != "" {
					continue // reached below; lists cost what they list
				}
				resp, body := a.ask(op.method, op.url(), "", bearer(secret)...)
				if resp.StatusCode == 401 || resp.StatusCode == 403 {
					t.Errorf("%s %s with scope %s: %d %s", op.method, op.url(), scope, resp.StatusCode, body)
				}
			}
		}
	}
	if resp, body := a.ask("GET", "/machines", "", bearer(secrets[auth.MachinesRead])...); resp.StatusCode != 200 || body != "[]\n" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func (a *api) requireUnauthorized(method, path, body string, header ...string) {
	a.t.Helper()
	resp, got := a.ask(method, path, body, header...)
	want := `{"error":"unauthorized","message":"Invalid or missing API key","code":"UNAUTHORIZED"}` + "\n"
	if resp.StatusCode != 401 || got != want || resp.Header.Get("WWW-Authenticate") != "Bearer" || resp.Header.Get("Content-Type") != mediaJSON {
		a.t.Errorf("%s %s %q: %d %q, %v", method, path, header, resp.StatusCode, got, resp.Header)
	}
}

func (a *api) requireForbidden(op documented, prefix string, secret auth.Secret) {
	a.t.Helper()
	resp, body := a.ask(op.method, prefix+op.url(), "", bearer(secret)...)
	want := `{"error":"forbidden","message":"The API key lacks the scope ` + string(op.scope) + `","code":"FORBIDDEN"}` + "\n"
	if resp.StatusCode != 403 || body != want {
		a.t.Errorf("%s: %d %s", op.id, resp.StatusCode, body)
	}
}

func TestPublicPaths(t *testing.T) {
	a := newAPI(t).keyed()
	for path, want := range map[string]int{
		"/health": 200, "/ready": 200, "/version": 200, "/docs": 200, "/docs/json": 200, "/openapi.json": 200, "/api/v1/health": 200,
		"/nowhere": 404, "/machines": 401, "/keys": 401, "/images": 401,
	} {
		if resp, body := a.ask("GET", path, ""); resp.StatusCode != want {
			t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
		}
	}
	if resp, _ := a.ask("PATCH", "/machines", ""); resp.StatusCode != 405 {
		t.Errorf("a wrong method: %d", resp.StatusCode)
	}
}

// Who has no key learns nothing about what is wrong with a body, and sends it
// in vain.
func TestDefect16AuthComesBeforeValidation(t *testing.T) {
	a := newAPI(t).keyed()
	for _, body := range []string{``, `{`, `{"name":"","vcpu_count":"x"}`, strings.Repeat("x", 2<<20)} {
		a.requireUnauthorized("POST", "/machines", body)
	}
	a.requireUnauthorized("GET", "/machines?limit=-1", "")
	a.requireUnauthorized("POST", "/machines/nosuch/files", `{"path":1}`)
	_, secret := a.newKey(auth.MachinesRead)
	if resp, body := a.ask("POST", "/machines", `{`, bearer(secret)...); resp.StatusCode != 403 {
		t.Errorf("without the scope: %d %s", resp.StatusCode, body)
	}
}

// A query is input too: who has no key is not told what is wrong with it.
func TestAuthComesBeforeTheQuery(t *testing.T) {
	a := newAPI(t)
	for _, path := range []string{"/machines?limit=", "/machines?limit=%zz", "/api/v1/machines?limit="} {
		for _, c := range []struct {
			handler http.Handler
			want    int
		}{{a.server.Handler(), http.StatusUnauthorized}, {a.server.TrustedHandler(), http.StatusBadRequest}} {
			w := httptest.NewRecorder()
			c.handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
			if w.Code != c.want {
				t.Errorf("GET %s: %d, want %d: %s", path, w.Code, c.want, w.Body)
			}
		}
	}
}

func TestKeyHeaders(t *testing.T) {
	a := newAPI(t).keyed()
	_, secret := a.newKey(auth.All)
	key := secret.Reveal()
	for _, good := range [][]string{
		{"Authorization", "Bearer " + key},
		{"X-API-Key", key},
		{"Authorization", "Bearer " + key, "X-API-Key", "hf_wrong"},
	} {
		if resp, body := a.ask("GET", "/machines", "", good...); resp.StatusCode != 200 {
			t.Errorf("%q: %d %s", good, resp.StatusCode, body)
		}
	}
	for i, bad := range [][]string{
		{"Authorization", "bearer " + key},
		{"Authorization", "Bearer  " + key},
		{"Authorization", "Bearer" + key},
		{"Authorization", key},
		{"Authorization", "Basic " + key},
		{"Authorization", ""},
		{"Authorization", "Bearer "},
		{"Authorization", "Bearer " + key[1:]},
		{"Authorization", "Bearer " + key + "x"},
		{"Authorization", "Bearer hf_wrong", "X-API-Key", key},
		{"Authorization", "Basic dTpw", "X-API-Key", key},
		{"X-API-Key", "Bearer " + key},
		{"X-API-Key", strings.ToUpper(key)},
		{"Cookie", "key=" + key},
	} {
		if i%auth.FreeFailures == 0 { // a wrong key here is one too many soon
			a.server.throttle = auth.NewThrottle(a.server.cfg.Log)
		}
		a.requireUnauthorized("GET", "/machines", "", bad...)
	}
	a.requireUnauthorized("GET", "/machines?api_key="+key, "")
}

func FuzzSecretOf(f *testing.F) {
	f.Add("Bearer hf_abc", "", uint8(1), uint8(0))
	f.Add("bearer hf_abc", "hf_abc", uint8(1), uint8(1))
	f.Add("Bearer a", "b", uint8(2), uint8(2))
	f.Fuzz(func(t *testing.T, authorization, apiKey string, a, k uint8) {
		h := http.Header{}
		for range a % 3 {
			h.Add("Authorization", authorization)
		}
		for range k % 3 {
			h.Add("X-API-Key", apiKey)
		}
		s, ok := secretOf(h)
		want, wantOK := strings.CutPrefix(authorization, "Bearer ")
		wantOK = wantOK && want != "" && a%3 == 1
		if a%3 == 0 {
			want, wantOK = apiKey, k%3 == 1 && apiKey != ""
		}
		if ok != wantOK || ok && s.Reveal() != want || !ok && s != "" {
			t.Errorf("%v: %q, %v", h, s.Reveal(), ok)
		}
	})
}

func TestTrustedCallersNeedNoKey(t *testing.T) {
	a := newAPI(t)
	if resp, body := a.ask("GET", "/machines", "", "Authorization", "Bearer hf_wrong"); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// Wrong keys wait, and many at a time are sent away; a right one from the same
// address gets through at once.
func TestFailuresAreSlowedAndNobodyIsLockedOut(t *testing.T) {
	a := newAPI(t).keyed()
	_, secret := a.newKey(auth.MachinesRead)
	ctx, cancel := context.WithCancel(t.Context())
	statuses := make(chan int)
	var clients sync.WaitGroup
	for range 20 {
		clients.Go(func() {
			req, err := http.NewRequestWithContext(ctx, "GET", a.http.URL+"/machines", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer hf_wrong")
			resp, err := a.http.Client().Do(req)
			if err != nil {
				return // it was still waiting at the end
			}
			defer resp.Body.Close()
			if (resp.StatusCode == 429) != (resp.Header.Get("Retry-After") != "") {
				t.Errorf("%d, Retry-After %q", resp.StatusCode, resp.Header.Get("Retry-After"))
			}
			select {
			case statuses <- resp.StatusCode:
			case <-ctx.Done():
			}
		})
	}
	count := map[int]int{}
	for count[401] < auth.FreeFailures || count[429] < 3 {
		count[<-statuses]++
	}
	if resp, body := a.ask("GET", "/machines", "", bearer(secret)...); resp.StatusCode != 200 {
		t.Errorf("a right key from the same address: %d %s", resp.StatusCode, body)
	}
	cancel()
	clients.Wait()
	if len(count) != 2 {
		t.Errorf("answers by status: %v", count)
	}
}

// A line says who did what; nothing says with which key.
func TestAuditNamesTheKeyAndHidesIt(t *testing.T) {
	var buf bytes.Buffer
	var seen counted
	a := newAPI(t, func(c *Config) {
		c.Log = slog.New(slog.NewTextHandler(&syncWriter{w: &buf}, &slog.HandlerOptions{Level: slog.LevelDebug}))
		c.Observer = &seen
	}).keyed()
	key, secret := a.newKey(auth.MachinesWrite, auth.KeysAll)
	wrong := auth.NewSecret()
	for _, c := range []struct {
		method, path, body string
		header             []string
		want               string
	}{
		{"DELETE", "/machines/nosuch", "", bearer(secret), "level=INFO msg=request req=r-1 machine=nosuch caller=" + string(key.ID) + " method=DELETE path=/machines/nosuch route=/machines/{id} status=404"},
		{"GET", "/machines", "", bearer(secret), "level=DEBUG msg=request req=r-1 caller=" + string(key.ID) + " method=GET path=/machines route=/machines status=403"},
		{"GET", "/keys/" + secret.Reveal(), "", bearer(secret), "path=/keys/hf_[redacted]"},
		{"DELETE", "/keys/" + wrong.Reveal(), "", bearer(secret), "path=/keys/hf_[redacted]"},
		{"POST", "/keys", `{"name":"x","scopes":["keys:read"]}`, bearer(secret), "method=POST path=/keys route=/keys status=201"},
		{"POST", "/keys", `{"name":"x","scopes":["` + secret.Reveal() + `"]}`, bearer(secret), "status=400"},
		{"POST", "/machines", `{}`, bearer(wrong), "level=INFO msg=request req=r-1 method=POST path=/machines route=/machines status=401"},
		{"GET", "/health", "", []string{"Authorization", "Bearer " + secret.Reveal()}, "method=GET path=/health"},
	} {
		seen.take()
		_, body := a.ask(c.method, c.path, c.body, append(c.header, headerRequestID, "r-1")...)
		seen.one(t) // which happens after its line is written
		if !strings.Contains(buf.String(), c.want) {
			t.Errorf("%s %s: no line %q in\n%s", c.method, c.path, c.want, buf.String())
		}
		var made hyperfleet.CreatedKey
		if c.path == "/keys" && json.Unmarshal([]byte(body), &made) == nil && made.Secret != "" && strings.Contains(buf.String(), made.Secret) {
			t.Error("a new key is in the log")
		}
		for _, s := range []auth.Secret{secret, wrong} {
			if strings.Contains(buf.String(), s.Reveal()[3:]) {
				t.Errorf("%s %s: a key is in the log:\n%s", c.method, c.path, buf.String())
			}
			if strings.Contains(body, s.Reveal()) {
				t.Errorf("%s %s: a key is sent back: %s", c.method, c.path, body)
			}
		}
		buf.Reset()
	}
	seen.take()
	a.ask("GET", "/health", "", headerRequestID, secret.Reveal())
	seen.one(t)
	if strings.Contains(buf.String(), secret.Reveal()) {
		t.Error("a key that is sent as the request's id is in the log")
	}
}

func TestClientMatchesAuthErrors(t *testing.T) {
	a := newAPI(t).keyed()
	if _, err := a.ListMachines(t.Context(), hyperfleet.ListOptions{}); !errors.Is(err, hyperfleet.ErrUnauthorized) {
		t.Errorf("without a key: %v", err)
	}
	_, secret := a.newKey(auth.ImagesRead)
	c := &hyperfleet.Client{Host: a.http.URL, APIKey: secret.Reveal()}
	defer c.CloseIdleConnections()
	if _, err := c.ListImages(t.Context()); err != nil {
		t.Error(err)
	}
	_, err := c.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if !errors.Is(err, hyperfleet.ErrForbidden) || errors.Is(err, hyperfleet.ErrUnauthorized) || !strings.Contains(err.Error(), "machines:read") {
		t.Errorf("without the scope: %v", err)
	}
}
