package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/auth/authtest"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/idempotency/idempotencytest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// api is a server on a real Manager with a fake world below it.
type api struct {
	*hyperfleet.Client
	t      *testing.T
	host   *machinetest.Host
	server *Server
	http   *httptest.Server
	images *fakeImages
	keys   *auth.Keyring
}

func newAPI(t *testing.T, change ...func(*Config)) *api {
	t.Helper()
	host := machinetest.NewHost(t)
	manager, err := machine.NewManager(host.Daemon(t).Config())
	if err != nil {
		t.Fatal(err)
	}
	if err := manager.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	images := &fakeImages{}
	keys, err := auth.Open(t.Context(), authtest.NewStore(), auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Machines: manager, Images: images, Keys: keys, Runtime: "fake", Log: slog.New(strictLog{slog.NewTextHandler(t.Output(), nil), t}), KernelPath: "/boot/vmlinux", SpoolDir: t.TempDir()}
	cfg.Idempotency = idempotency.NewKeeper(idempotencytest.NewStore(), idempotency.DefaultBounds(), cfg.Log)
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.TrustedHandler())
	a := &api{Client: &hyperfleet.Client{Host: ts.URL}, t: t, host: host, server: s, http: ts, images: images, keys: keys}
	t.Cleanup(func() {
		s.Close()
		a.CloseIdleConnections()
		ts.Close()
		if err := keys.Close(); err != nil {
			t.Error(err)
		}
		if err := manager.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

// strictLog fails the test when an answer is not in the document.
type strictLog struct {
	slog.Handler
	t *testing.T
}

func (l strictLog) Enabled(context.Context, slog.Level) bool { return true }

func (l strictLog) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == undeclared {
		r.Attrs(func(a slog.Attr) bool { l.t.Errorf("%s: %s", r.Message, a); return true })
	}
	return l.Handler.Handle(ctx, r)
}

// running returns a machine that runs.
func (a *api) running() hyperfleet.Machine {
	a.t.Helper()
	m, err := a.CreateMachine(a.t.Context(), hyperfleet.CreateMachineRequest{Name: "m", VCPUCount: 1, MemSizeMiB: 128, Image: "alpine"})
	if err == nil {
		m, err = a.StartMachine(a.t.Context(), m.ID)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return m
}

type answer struct {
	StatusCode int
	Header     http.Header
}

// ask makes a request and returns the status and the body.
func (a *api) ask(method, path, body string, header ...string) (answer, string) {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.http.URL+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := a.http.Client().Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header}, string(raw)
}

// fakeImages is an image cache that holds what was imported or pulled.
type fakeImages struct {
	mu   sync.Mutex
	list []machine.Image
}

func (f *fakeImages) Resolve(_ context.Context, req machine.ImageRequest) (*machine.ImageLease, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Contains(req.Ref, "missing") {
		return nil, errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %s not found", req.Ref)
	}
	if req.Progress != nil {
		req.Progress(machine.ImageProgress{Phase: "pull", Layer: "sha256:1", Current: 5, Total: 10})
	}
	img := machine.Image{Ref: req.Ref, Digest: "sha256:1", Config: machine.ImageConfig{Cmd: []string{"sh"}}}
	f.put(img)
	return &machine.ImageLease{Image: img, Release: func() {}}, nil
}

// put needs mu.
func (f *fakeImages) put(img machine.Image) {
	f.list = slices.DeleteFunc(f.list, func(old machine.Image) bool { return old.Ref == img.Ref })
	f.list = append(f.list, img)
}

func (f *fakeImages) find(ref string) int {
	return slices.IndexFunc(f.list, func(i machine.Image) bool { return i.Ref == ref || i.Digest == ref })
}

func (f *fakeImages) Lookup(_ context.Context, ref string) (CachedImage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.find(ref); i >= 0 {
		return CachedImage{Image: f.list[i]}, nil
	}
	return CachedImage{}, errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %s not found", ref)
}

func (f *fakeImages) List(context.Context) ([]CachedImage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]CachedImage, len(f.list))
	for i, img := range f.list {
		out[i].Image = img
	}
	return out, nil
}

func (f *fakeImages) Import(_ context.Context, name string, archive io.Reader) (machine.Image, error) {
	n, err := io.Copy(io.Discard, archive)
	f.mu.Lock()
	defer f.mu.Unlock()
	img := machine.Image{Ref: name, Digest: "sha256:2", SizeBytes: n}
	f.put(img)
	return img, err
}

func (f *fakeImages) Prune(_ context.Context, unusedFor time.Duration) ([]CachedImage, int64, error) {
	if unusedFor > 0 {
		return nil, 0, nil
	}
	gone := make([]CachedImage, len(f.list))
	for i, img := range f.list {
		gone[i].Image = img
	}
	f.list = nil
	return gone, 42, nil
}

func (f *fakeImages) Delete(_ context.Context, ref string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(ref)
	if i < 0 {
		return errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %s not found", ref)
	}
	f.list = slices.Delete(f.list, i, i+1)
	return nil
}

// The contract's answers, on both prefixes and with a trailing slash.
func TestContract(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	idle, err := a.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{Name: "idle", VCPUCount: 1, MemSizeMiB: 64, Image: "alpine"})
	if err != nil {
		t.Fatal(err)
	}
	const good = `"name":"x","vcpu_count":1,"mem_size_mib":128,"image":"alpine"`
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/health", "", 200, `{"status":"ok"}`},
		{"GET", "/ready", "", 200, `{"status":"ok"}`},
		{"GET", "/version", "", 200, `"runtime":"fake"`},
		{"GET", "/openapi.json", "", 200, `"openapi":"3.1.0"`},
		{"GET", "/docs/json", "", 200, `"openapi":"3.1.0"`},
		{"GET", "/docs", "", 200, `<div id="swagger-ui">`},
		{"GET", "/docs/assets/page.js", "", 200, `SwaggerUIBundle(`},
		{"GET", "/docs/assets/none.js", "", 404, `No such route`},
		{"GET", "/nowhere", "", 404, `{"error":"not_found","message":"No such route","code":"NOT_FOUND"}`},
		{"PATCH", "/machines", "", 405, `"error":"method_not_allowed"`},
		{"GET", "/machines?status=running", "", 200, `"id":"` + id + `"`},
		{"GET", "/machines?status=gone", "", 400, `"error":"validation_error"`},
		{"GET", "/machines?limit=-1", "", 400, `query.limit`},
		{"GET", "/machines?offset=0&status=", "", 400, `query.status`},
		{"POST", "/machines", `{` + good + `,"surprise":[1]}`, 201, `"status":"pending"`},
		{"POST", "/machines", `{` + good + `,"network":{}}`, 201, `"network":null`},
		{"POST", "/machines", `{` + good + `,"network":{"tap_device":"tap0"}}`, 400, `server's choice`},
		{"POST", "/machines", `{` + good + `,"exposed_ports":[80,80,443]}`, 201, `"exposed_ports":[80,443]`},
		{"POST", "/machines", `{` + good + `,"exposed_ports":[0]}`, 400, `exposed_ports must be valid TCP ports`},
		{"POST", "/machines", `{` + good + `,"exposed_ports":[80.5]}`, 400, `{"error":"ValidationError","message":"exposed_ports must be valid TCP ports"`},
		{"POST", "/machines", `{` + good + `,"env":{"A=B":"c"}}`, 400, `is no valid variable`},
		{"POST", "/machines", `{"name":"x","vcpu_count":1.5,"mem_size_mib":128}`, 400, `body.vcpu_count`},
		{"POST", "/machines", `{"name":"x","vcpu_count":"1","mem_size_mib":128}`, 400, `expected integer`},
		{"POST", "/machines", `{"name":"","vcpu_count":1,"mem_size_mib":128}`, 400, `body.name`},
		{"POST", "/machines", `{"vcpu_count":0}`, 400, `expected required property name to be present`},
		{"POST", "/machines", `{`, 400, `"error":"validation_error"`},
		{"POST", "/machines", ``, 400, `request body is required`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"/srv/../etc/vmlinux"}`, 400, `{"error":"PathTraversalError","message":"Path traversal attempt detected","code":"PATH_TRAVERSAL_ERROR"}`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"/srv/%2e%2e/vmlinux"}`, 400, `Path traversal attempt detected`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"/srv/%252E%252e/vmlinux"}`, 400, `Path traversal attempt detected`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"/srv/vmlinux%00"}`, 400, `Path traversal attempt detected`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"/srv/vm\u0000linux"}`, 400, `Path traversal attempt detected`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"assets/vmlinux"}`, 400, `{"error":"PathTraversalError","message":"Path must be absolute"`},
		{"POST", "/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,"rootfs_path":"../base.ext4"}`, 400, `Path traversal attempt detected`},
		{"POST", "/machines", `{` + good + `,"kernel_image_path":"/etc/passwd"}`, 403, `Kernel image is in no allowed folder: /etc/passwd`},
		{"POST", "/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128}`, 400, `image is required`},
		{"POST", "/machines", `{` + good + `,"kernel_args":"quiet"}`, 201, `"kernel_args":"quiet"`},
		{"POST", "/machines", `{` + good + `,"image_size_mib":63}`, 400, `body.image_size_mib`},
		{"POST", "/machines", `{` + good + `,"registry_auth":{"username":"u"}}`, 400, `body.registry_auth`},
		{"GET", "/machines/nosuch", "", 404, `{"error":"not_found","message":"Machine not found","code":"NOT_FOUND"}`},
		{"GET", "/machines/" + strings.Repeat("a", 4096), "", 404, `Machine not found`},
		{"GET", "/machines/..%2f..%2fetc", "", 404, `Machine not found`},
		{"DELETE", "/machines/nosuch", "", 404, `"error":"not_found"`},
		{"POST", "/machines/nosuch/start", "", 404, `"error":"NotFoundError"`},
		{"POST", "/machines/" + idle.ID + "/stop", "", 200, `"status":"stopped"`},
		{"POST", "/machines/" + idle.ID + "/pause", "", 409, `"message":"machine is stopped and cannot become paused","code":"STATE_CONFLICT"`},
		{"POST", "/machines/nosuch/pause", "", 404, `"error":"NotFoundError"`},
		{"POST", "/machines/nosuch/resume", "", 404, `"error":"NotFoundError"`},
		{"POST", "/machines/" + id + "/pause", "", 200, `"status":"paused"`},
		{"POST", "/machines/" + id + "/pause", "", 200, `"status":"paused"`},
		{"GET", "/machines/" + id + "/wait?status=paused", "", 200, `"status":"paused"`},
		{"POST", "/machines/" + id + "/start", "", 409, `machine is paused and cannot become starting`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":["x"]}`, 400, `"message":"Machine must be running to execute commands: it is paused, resume it first"`},
		{"GET", "/machines/" + id + "/files?path=/f", "", 400, `Machine must be running for file operations: it is paused`},
		{"POST", "/machines/" + id + "/resume", "", 200, `"status":"running"`},
		{"GET", "/machines/" + id + "/wait?status=running", "", 200, `"status":"running"`},
		{"GET", "/machines/" + id + "/wait?status=stopped&timeout=1", "", 504, `"message":"Timed out waiting for machine ` + id + ` to reach status stopped"`},
		{"GET", "/machines/" + id + "/wait?status=stopped&timeout=31", "", 400, `query.timeout`},
		{"GET", "/machines/" + id + "/wait", "", 400, `query.status`},
		{"GET", "/machines/nosuch/wait?status=running", "", 404, `"error":"NotFoundError"`},
		{"POST", "/machines/" + id + "/exec", `{"command":["exit","7"],"cmd":["exit","8"]}`, 200, `"exit_code":7`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":["echo","a","b"],"timeout":10000}`, 200, `"stdout":"a b\n","stderr":""`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":[]}`, 400, `{"error":"ValidationError","message":"command is required","code":"VALIDATION_ERROR"}`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":["x"],"timeout":0}`, 400, `body.timeout`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":["nosuch"]}`, 200, `"exit_code":127`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":["echo","x"],"encoding":"base64"}`, 200, `"stdout":"eAo=","stderr":"","exec_id":`},
		{"POST", "/machines/" + id + "/exec", `{"cmd":["cat"],"encoding":"base64","stdin":"?"}`, 400, `stdin is not base64`},
		{"POST", "/machines/" + idle.ID + "/exec", `{"cmd":["x"]}`, 400, `"message":"Machine must be running to execute commands"`},
		{"GET", "/machines/" + id + "/logs", "", 200, "booting\n"},
		{"GET", "/machines/" + id + "/logs?source=agent&tail=1", "", 200, "[hyperfleet: machine is running]\n"},
		{"GET", "/machines/" + id + "/logs?source=both", "", 400, `query.source`},
		{"GET", "/machines/" + id + "/logs?tail=-2", "", 400, `query.tail`},
		{"GET", "/machines/" + id + "/logs?follow=perhaps", "", 400, `query.follow`},
		{"GET", "/machines/" + idle.ID + "/logs?follow=true", "", 200, ``},
		{"GET", "/machines/" + idle.ID + "/console", "", 200, ``},
		{"GET", "/machines/nosuch/logs", "", 404, `"error":"NotFoundError"`},
		{"GET", "/machines/" + id + "/exec/nosuch", "", 404, `EXEC_NOT_FOUND`},
		{"POST", "/machines/" + id + "/exec/nosuch/attach", `{"stdout":0,"stderr":0}`, 400, `needs the header Upgrade`},
		{"POST", "/machines/" + id + "/files", `{"path":"/f","content":"aGk="}`, 200, `{"success":true,"bytes_written":2}`},
		{"POST", "/machines/" + id + "/files", `{"content":"aGk="}`, 400, `body.path`},
		{"POST", "/machines/" + id + "/files", `{"path":"f","content":"aGk="}`, 400, `"message":"Remote path must be absolute"`},
		{"POST", "/machines/" + id + "/files", `{"path":"/f","content":"????"}`, 400, `not base64`},
		{"POST", "/machines/" + idle.ID + "/files", `{"path":"/f","content":""}`, 400, `Machine must be running for file operations`},
		{"GET", "/machines/" + id + "/files?path=/f", "", 200, `{"content":"aGk=","size":2}`},
		{"GET", "/machines/" + id + "/files?path=/none", "", 404, `"error":"NotFoundError"`},
		{"GET", "/machines/" + id + "/files", "", 400, `query.path`},
		{"GET", "/machines/" + id + "/files/stat?path=/f", "", 200, `"path":"/f","size":2,"mode":"644","mod_time":"`},
		{"GET", "/machines/" + id + "/files/list?path=/", "", 200, `"path":"/f"`},
		{"POST", "/machines/" + id + "/files/mkdir", `{"path":"/d","mode":"9"}`, 400, `body.mode`},
		{"POST", "/machines/" + id + "/files/mkdir", `{"path":"/d"}`, 204, ``},
		{"POST", "/machines/" + id + "/files/rename", `{"from":"/f","to":"/d/f"}`, 204, ``},
		{"DELETE", "/machines/" + id + "/files?path=/d/f", "", 204, ``},
		{"POST", "/images/pull", `{"image":"a/b:1"}`, 200, `"ref":"a/b:1"`},
		{"POST", "/images/pull", `{"image":"missing"}`, 404, `IMAGE_NOT_FOUND`},
		{"GET", "/images", "", 200, `"digest":"sha256:1"`},
		{"GET", "/images/a/b:1", "", 200, `"cmd":["sh"]`},
		{"GET", "/images/sha256:1", "", 200, `"ref":"a/b:1"`},
		{"DELETE", "/images/a/b:1", "", 204, ``},
		{"POST", "/images/import?name=n", "tar", 200, `"size_bytes":3`},
		{"POST", "/images/import", "tar", 400, `query.name`},
		{"POST", "/images/prune", `{"unused_for":60}`, 200, `{"removed":[],"bytes_freed":0}`},
		{"POST", "/images/prune", `{"unused_for":-1}`, 400, `body.unused_for`},
		{"POST", "/images/prune", ``, 200, `"bytes_freed":42`},
		{"POST", "/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,"image":"Al pine"}`, 400, `{"error":"ValidationError","message":"\"Al pine\" is no image reference","code":"INVALID_IMAGE_REF"}`},
	} {
		for _, form := range []string{c.path, "/api/v1" + c.path, slashed(c.path)} {
			if form != c.path && (c.method != "GET" || c.status == 504) {
				continue // once is enough for what changes something, or waits
			}
			resp, body := a.ask(c.method, form, c.body)
			if resp.StatusCode != c.status || !strings.Contains(body, c.want) {
				t.Errorf("%s %s %s:\n got %d %s\nwant %d %s", c.method, form, c.body, resp.StatusCode, body, c.status, c.want)
			}
			if c.status >= 400 && resp.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s %s: an error as %s", c.method, form, resp.Header.Get("Content-Type"))
			}
		}
	}
}

// slashed puts a slash at the end of the path.
func slashed(path string) string {
	p, query, ok := strings.Cut(path, "?")
	if ok {
		query = "?" + query
	}
	return p + "/" + query
}

func TestMachineFields(t *testing.T) {
	a := newAPI(t)
	_, body := a.ask("POST", "/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,"image":"alpine"}`)
	var keys []string
	dec := json.NewDecoder(strings.NewReader(body))
	for depth := 0; ; {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if d, ok := tok.(json.Delim); ok && (d == '{' || d == '[') {
			depth++
		} else if ok {
			depth--
		} else if k, ok := tok.(string); ok && depth == 1 && strings.Contains(body, `"`+k+`":`) {
			keys = append(keys, k)
		}
	}
	want := []string{
		"id", "name", "status", "runtime_type", "vcpu_count", "mem_size_mib", "kernel_image_path", "kernel_args", "rootfs_path",
		"image_ref", "image_digest", "network", "pid", "created_at", "updated_at", "started_at", "error_message",
	}
	if !slices.Equal(keys, want) {
		t.Errorf("fields %q, want %q", keys, want)
	}
}

func TestListPages(t *testing.T) {
	a := newAPI(t)
	for range 3 {
		a.running()
	}
	resp, body := a.ask("GET", "/machines?limit=1&offset=1", "")
	if resp.Header.Get("X-Total-Count") != "3" || strings.Count(body, `"id"`) != 1 {
		t.Errorf("total %s, %s", resp.Header.Get("X-Total-Count"), body)
	}
}

func TestCorrelationID(t *testing.T) {
	a := newAPI(t)
	if resp, _ := a.ask("GET", "/health", "", headerRequestID, "mine-1"); resp.Header.Get(headerRequestID) != "mine-1" {
		t.Errorf("id %q is not echoed", resp.Header.Get(headerRequestID))
	}
	for _, bad := range []string{"", strings.Repeat("x", 129), "a b"} {
		if resp, _ := a.ask("GET", "/nowhere", "", headerRequestID, bad); !strings.HasPrefix(resp.Header.Get(headerRequestID), "req_") {
			t.Errorf("for %q: %q", bad, resp.Header.Get(headerRequestID))
		}
	}
}

func TestMethodNotAllowedNamesOthers(t *testing.T) {
	a := newAPI(t)
	for _, method := range []string{"PUT", "TRACE", "PURGE", "get"} {
		resp, body := a.ask(method, "/api/v1/machines/x/", "")
		if resp.StatusCode != 405 || resp.Header.Get("Allow") != "DELETE, GET, HEAD, OPTIONS" || !strings.Contains(body, "method_not_allowed") {
			t.Errorf("%s: %d, Allow: %s, %s", method, resp.StatusCode, resp.Header.Get("Allow"), body)
		}
	}
	if resp, body := a.ask("OPTIONS", "/machines", ""); resp.StatusCode != 204 || resp.Header.Get("Allow") != "GET, HEAD, POST, OPTIONS" || body != "" {
		t.Errorf("OPTIONS: %d, Allow: %s, %s", resp.StatusCode, resp.Header.Get("Allow"), body)
	}
	if resp, body := a.ask("HEAD", "/machines", ""); resp.StatusCode != 200 || resp.Header.Get("X-Total-Count") != "0" || body != "" {
		t.Errorf("HEAD: %d, total %s, %q", resp.StatusCode, resp.Header.Get("X-Total-Count"), body)
	}
	if resp, _ := a.ask("HEAD", "/machines/none", ""); resp.StatusCode != 404 {
		t.Errorf("HEAD of nothing: %d", resp.StatusCode)
	}
}

// A password that is in the wrong place is not sent back.
func TestErrorsKeepSecrets(t *testing.T) {
	a := newAPI(t)
	_, body := a.ask("POST", "/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,"registry_auth":{"username":"u","password":["hunter2"]}}`)
	if strings.Contains(body, "hunter2") || !strings.Contains(body, "registry_auth.password") {
		t.Error(body)
	}
}

func TestBrowserGuards(t *testing.T) {
	a := newAPI(t)
	body := `{"name":"x","vcpu_count":1,"mem_size_mib":128,"image":"alpine"}`
	for _, h := range [][]string{{"Origin", "https://evil.test"}, {"Sec-Fetch-Site", "cross-site"}} {
		if resp, b := a.ask("POST", "/machines", body, h...); resp.StatusCode != 403 || !strings.Contains(b, `"error":"forbidden"`) {
			t.Errorf("%v: %d %s", h, resp.StatusCode, b)
		}
	}
	if resp, b := a.ask("POST", "/machines", body, "Origin", a.http.URL); resp.StatusCode != 201 {
		t.Errorf("same origin: %d %s", resp.StatusCode, b)
	}
	loopback := a.server.LoopbackHandler()
	for host, want := range map[string]int{
		"localhost:3000": 200, "127.0.0.1:3000": 200, "[::1]:3000": 200, "LOCALHOST": 200, "127.9.9.9": 200,
		"evil.test:3000": 421, "10.0.0.1": 421, "": 421, "localhost.evil.test": 421,
	} {
		req := httptest.NewRequest("GET", "/health", nil)
		req.Host = host
		rec := httptest.NewRecorder()
		loopback.ServeHTTP(rec, req)
		if rec.Code != want {
			t.Errorf("Host %q: %d, want %d", host, rec.Code, want)
		}
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	a := newAPI(t, func(c *Config) { c.Ready = func(context.Context) error { panic("boom") } })
	if resp, body := a.ask("GET", "/ready", ""); resp.StatusCode != 500 || strings.Contains(body, "boom") || !strings.Contains(body, "internal_error") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// failing is Machines whose Get and Start fail.
type failing struct {
	Machines
	err error
}

func (f failing) Get(context.Context, machine.ID) (machine.Machine, error) {
	return machine.Machine{}, f.err
}

func (f failing) Start(context.Context, machine.ID) (machine.Machine, error) {
	return machine.Machine{}, f.err
}

// Every kind arrives at the client as its sentinel, with code and message.
func TestErrorsRoundTrip(t *testing.T) {
	sentinels := map[errdefs.Kind]error{
		errdefs.Invalid: hyperfleet.ErrInvalid, errdefs.Unauthorized: hyperfleet.ErrUnauthorized, errdefs.Forbidden: hyperfleet.ErrForbidden,
		errdefs.NotFound: hyperfleet.ErrNotFound, errdefs.Conflict: hyperfleet.ErrConflict, errdefs.Exhausted: hyperfleet.ErrExhausted,
		errdefs.Unsupported: hyperfleet.ErrUnsupported, errdefs.Unavailable: hyperfleet.ErrUnavailable, errdefs.Timeout: hyperfleet.ErrTimeout,
		errdefs.Guest: hyperfleet.ErrGuest, errdefs.Runtime: hyperfleet.ErrRuntime,
		errdefs.Quota: hyperfleet.ErrQuota, errdefs.Throttled: hyperfleet.ErrThrottled, errdefs.Internal: hyperfleet.ErrInternal,
	}
	if len(classes) != len(sentinels) {
		t.Fatalf("%d classes, %d sentinels", len(classes), len(sentinels))
	}
	for _, class := range classes {
		t.Run(string(class.kind), func(t *testing.T) {
			a := newAPI(t, func(c *Config) {
				c.Machines = failing{c.Machines, errdefs.Wrap(errors.New("private"), class.kind, "SOME_CODE", "public text")}
			})
			_, err := a.StartMachine(t.Context(), "abc")
			e, ok := errors.AsType[*hyperfleet.Error](err)
			if !ok || e.Code != "SOME_CODE" || e.Message != "public text" || e.Status != class.status || e.RequestID == "" {
				t.Fatalf("%#v", err)
			}
			for kind, sentinel := range sentinels {
				if errors.Is(err, sentinel) != (kind == class.kind) {
					t.Errorf("%v is %v: %v", err, sentinel, errors.Is(err, sentinel))
				}
			}
		})
	}
}

// What has no kind stays private.
func TestUnknownErrorIsHidden(t *testing.T) {
	a := newAPI(t, func(c *Config) { c.Machines = failing{c.Machines, errors.New("secret path /var/x")} })
	_, err := a.Machine(t.Context(), "abc")
	if !errors.Is(err, hyperfleet.ErrInternal) || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}

func TestPullProgress(t *testing.T) {
	a := newAPI(t)
	var steps []hyperfleet.PullProgress
	img, err := a.PullImage(t.Context(), hyperfleet.PullRequest{Image: "a:1"}, func(p hyperfleet.PullProgress) { steps = append(steps, p) })
	if err != nil || img.Ref != "a:1" || len(steps) != 1 || steps[0].Total != 10 {
		t.Errorf("%+v, %+v, %v", img, steps, err)
	}
	_, err = a.PullImage(t.Context(), hyperfleet.PullRequest{Image: "missing"}, nil)
	if e, ok := errors.AsType[*hyperfleet.Error](err); !ok || e.Code != "IMAGE_NOT_FOUND" || !errors.Is(err, hyperfleet.ErrNotFound) {
		t.Errorf("missing: %v", err)
	}
}

// Every route is in the document and every documented operation has a route.
func TestOpenAPIIsTheRoutes(t *testing.T) {
	a := newAPI(t)
	_, body := a.ask("GET", "/openapi.json", "")
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil {
		t.Fatal(err)
	}
	var got []string
	for path, item := range doc.Paths {
		for method, op := range item {
			got = append(got, strings.ToUpper(method)+" "+path)
			if op.OperationID == "" || strings.Contains(path, "...") {
				t.Errorf("%s %s: operation %q", method, path, op.OperationID)
			}
			url := strings.NewReplacer("{id}", "abc", "{exec_id}", "x", "{ref}", "a/b").Replace(path)
			req := httptest.NewRequest(strings.ToUpper(method), url, nil)
			if _, pattern := a.server.mux.Handler(req); pattern == "" {
				t.Errorf("%s %s has no route", method, path)
			}
		}
	}
	slices.Sort(got)
	want := []string{
		"DELETE /images/{ref}", "DELETE /keys/{id}", "DELETE /machines/{id}", "DELETE /machines/{id}/files", "GET /health", "GET /images", "GET /images/{ref}",
		"GET /keys", "GET /keys/{id}",
		"GET /machines", "GET /machines/{id}", "GET /machines/{id}/console", "GET /machines/{id}/exec/{exec_id}", "GET /machines/{id}/files",
		"GET /machines/{id}/files/list", "GET /machines/{id}/files/stat", "GET /machines/{id}/logs", "GET /machines/{id}/wait", "GET /ready", "GET /version",
		"POST /images/import", "POST /images/prune", "POST /images/pull", "POST /keys", "POST /machines", "POST /machines/{id}/exec", "POST /machines/{id}/exec/{exec_id}/attach",
		"POST /machines/{id}/files", "POST /machines/{id}/files/mkdir", "POST /machines/{id}/files/rename", "POST /machines/{id}/pause", "POST /machines/{id}/restart", "POST /machines/{id}/resume",
		"POST /machines/{id}/start", "POST /machines/{id}/stop", "PUT /machines/{id}/files",
	}
	if !slices.Equal(got, want) {
		t.Errorf("operations\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !strings.Contains(body, `"ErrorBody"`) && !strings.Contains(body, `"message"`) {
		t.Error("the error shape is not documented")
	}
}
