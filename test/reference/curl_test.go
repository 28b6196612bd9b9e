//go:build vm

package reference

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// TestCurlLines makes the requests of the README and the docs, in the order in
// which a reader types them.
func TestCurlLines(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	for _, prefix := range prefixes {
		t.Run("prefix "+prefix, func(t *testing.T) {
			w := newWire(t, h, prefix)
			m := w.checkCreate(image)
			w.checkList(m)
			w.checkLifecycle(m.ID)
			w.checkExec(m.ID)
			w.checkFiles(m.ID)
			w.checkEnd(m.ID)
		})
	}
}

// fields of a machine, in the reference's order; ours come after them.
var fields = []string{
	"id", "name", "status", "runtime_type", "vcpu_count", "mem_size_mib", "kernel_image_path", "kernel_args",
	"rootfs_path", "image_ref", "image_digest", "network", "exposed_ports", "pid", "created_at", "updated_at",
}

func (w wire) checkCreate(image string) hyperfleet.Machine {
	w.t.Helper()
	a := w.post("/machines", `{"name":"my-vm","vcpu_count":2,"mem_size_mib":256,"image":"`+image+`","image_size_mib":512,
		"network":{"enable":true},"exposed_ports":[8080,80,8080],"unknown_field":1}`).want(201)
	body := a.object()
	for _, f := range fields {
		if _, ok := body[f]; !ok {
			w.t.Errorf("a created machine has no %q: %s", f, a.body)
		}
	}
	m := a.machine()
	if m.Status != "pending" || m.Name != "my-vm" || m.VCPUCount != 2 || m.MemSizeMiB != 256 || m.PID != nil {
		w.t.Errorf("created: %+v", m)
	}
	if !slices.Equal(m.ExposedPorts, []int{8080, 80}) {
		w.t.Errorf("exposed_ports: %v, want them in order and without duplicates", m.ExposedPorts)
	}
	if strings.ToLower(m.ID) != m.ID || len(m.ID) > 63 {
		w.t.Errorf("id %q is no DNS label", m.ID)
	}
	if _, ok := w.post("/machines", `{"name":"bare","vcpu_count":1,"mem_size_mib":128,"image":"`+image+`"}`).want(201).object()["exposed_ports"]; ok {
		w.t.Error("exposed_ports is there although none was asked for")
	}
	return m
}

func (w wire) checkList(m hyperfleet.Machine) {
	w.t.Helper()
	list := w.get("/machines").want(200).machines()
	if len(list) < 2 || list[0].Name != "bare" || list[1].ID != m.ID {
		w.t.Errorf("the list is not newest first: %+v", list)
	}
	if n := len(w.get("/machines/").want(200).machines()); n != len(list) {
		w.t.Errorf("with a trailing slash: %d machines, want %d", n, len(list))
	}
	if page := w.get("/machines?limit=1&offset=1").want(200).machines(); len(page) != 1 || page[0].ID != m.ID {
		w.t.Errorf("limit=1&offset=1: %+v", page)
	}
	if n := len(w.get("/machines?status=running").want(200).machines()); n != 0 {
		w.t.Errorf("status=running: %d machines, want none", n)
	}
	w.get("/machines?status=asleep").refused(400, "validation_error", "")
	w.delete("/machines/" + list[0].ID).want(204)
}

func (w wire) checkLifecycle(id string) {
	w.t.Helper()
	if got := w.get("/machines/" + id).want(200).machine(); got.ID != id {
		w.t.Errorf("get: %+v", got)
	}
	w.post("/machines/"+id+"/exec", `{"command":["true"]}`).refused(400, "ValidationError", "Machine must be running to execute commands")
	w.get("/machines/"+id+"/files?path=/etc/passwd").refused(400, "ValidationError", "Machine must be running for file operations")
	began := time.Now()
	w.get("/machines/"+id+"/wait?status=running&timeout=1").refused(504, "TimeoutError", "Timed out waiting for machine "+id+" to reach status running")
	if took := time.Since(began); took < time.Second || took > 10*time.Second {
		w.t.Errorf("a wait of one second took %v", took)
	}
	w.get("/machines/"+id+"/wait?status=running&timeout=31").refused(400, "validation_error", "")
	w.get("/machines/"+id+"/wait").refused(400, "validation_error", "")

	if m := w.post("/machines/"+id+"/start", "").want(200).machine(); m.Status != "running" || m.PID == nil {
		w.t.Errorf("started: %+v", m)
	}
	again := w.curl("POST", "/machines/"+id+"/start").want(200).machine()
	if again.Status != "running" {
		w.t.Errorf("start of a running machine: %+v", again)
	}
	if m := w.get("/machines/" + id + "/wait?status=running&timeout=30").want(200).machine(); m.PID == nil || *m.PID != *again.PID {
		w.t.Errorf("wait: %+v", m)
	}
	if list := w.get("/machines?status=running").want(200).machines(); len(list) != 1 || list[0].ID != id {
		w.t.Errorf("status=running: %+v", list)
	}
}

func (w wire) checkExec(id string) {
	w.t.Helper()
	path := "/machines/" + id + "/exec"
	for _, c := range []struct {
		body string
		want hyperfleet.ExecResult
	}{
		{`{"command":["echo","Hello, World!"]}`, hyperfleet.ExecResult{Stdout: "Hello, World!\n"}},
		{`{"cmd":["echo","cmd"]}`, hyperfleet.ExecResult{Stdout: "cmd\n"}},
		{`{"command":["echo","command"],"cmd":["echo","cmd"]}`, hyperfleet.ExecResult{Stdout: "command\n"}},
		{`{"command":["sh","-c","echo out; echo err >&2; exit 3"]}`, hyperfleet.ExecResult{ExitCode: 3, Stdout: "out\n", Stderr: "err\n"}},
		{`{"command":["no-such-command"]}`, hyperfleet.ExecResult{ExitCode: 127}},
		{`{"command":["sh","-c","kill -9 $$"]}`, hyperfleet.ExecResult{ExitCode: -1, Signal: "SIGKILL"}},
		{`{"cmd":["sleep","1"],"timeout":120000}`, hyperfleet.ExecResult{}}, // milliseconds, as the examples say
		{`{"command":["cat"]}`, hyperfleet.ExecResult{}},                    // standard input is empty
		{`{"command":["id","-u"]}`, hyperfleet.ExecResult{Stdout: "0\n"}},
	} {
		got := w.post(path, c.body).want(200).result()
		if got.ExitCode != c.want.ExitCode || got.Signal != c.want.Signal || got.Stdout != c.want.Stdout ||
			got.ExitCode != 127 && got.Stderr != c.want.Stderr {
			w.t.Errorf("%s: %+v, want %+v", c.body, got, c.want)
		}
	}
	w.post(path, `{"command":["sleep","30"],"timeout":1}`).refused(504, "TimeoutError", "Command execution timed out after 1 seconds")
	w.post(path, `{}`).refused(400, "ValidationError", "command is required")
	w.post(path, `{"command":[]}`).refused(400, "ValidationError", "command is required")
	w.post(path, `{"command":"ls"}`).refused(400, "validation_error", "")
	w.post(path, `{"command":["true"],"timeout":0.5}`).refused(400, "validation_error", "")
	w.post(path, `{"command":`).refused(400, "validation_error", "")
}

func (w wire) checkFiles(id string) {
	w.t.Helper()
	path := "/machines/" + id + "/files"
	const content = "Hello\x00 from the host\n"
	up := w.post(path, jsonOf(map[string]string{"path": "/root/hello.txt", "content": base64Of(content)})).want(200).object()
	if up["success"] != true || up["bytes_written"] != float64(len(content)) {
		w.t.Errorf("upload: %v", up)
	}
	var down struct {
		Content string
		Size    int
	}
	w.get(path + "?path=/root/hello.txt").want(200).into(&down)
	if raw, _ := base64.StdEncoding.DecodeString(down.Content); string(raw) != content || down.Size != len(content) {
		w.t.Errorf("download: %+v", down)
	}
	var stat struct {
		Path, Mode string
		Size       int
		ModTime    string `json:"mod_time"`
		IsDir      *bool  `json:"is_dir"`
	}
	w.get(path + "/stat?path=/root/hello.txt").want(200).into(&stat)
	if _, err := time.Parse("2006-01-02T15:04:05Z", stat.ModTime); err != nil || stat.Path != "/root/hello.txt" ||
		stat.Size != len(content) || stat.Mode != "644" || stat.IsDir == nil || *stat.IsDir {
		w.t.Errorf("stat: %+v (%v)", stat, err)
	}
	w.get(path+"?path=root/hello.txt").refused(400, "ValidationError", "Remote path must be absolute")
	w.get(path).refused(400, "validation_error", "")
	w.post(path, `{"path":"/root/x"}`).refused(400, "validation_error", "")
	w.delete(path + "?path=/root/hello.txt").want(204)
	if a := w.get(path + "/stat?path=/root/hello.txt"); a.status != 404 {
		w.t.Errorf("stat of a deleted file: %d %s", a.status, a.body)
	}
	if got := w.exec(id, "ls", "-A", "/root"); got.Stdout != "" {
		w.t.Errorf("left in /root: %q", got.Stdout)
	}
}

func (w wire) checkEnd(id string) {
	w.t.Helper()
	w.exec(id, "touch", "/root/kept")
	if m := w.post("/machines/"+id+"/restart", "").want(200).machine(); m.Status != "running" {
		w.t.Errorf("restarted: %+v", m)
	}
	if got := w.exec(id, "ls", "/root"); got.Stdout != "kept\n" {
		w.t.Errorf("after a restart /root has %q", got.Stdout)
	}
	for range 2 { // stop on stopped is no error
		if m := w.post("/machines/"+id+"/stop", "").want(200).machine(); m.Status != "stopped" || m.PID != nil {
			w.t.Errorf("stopped: %+v", m)
		}
	}
	if m := w.post("/machines/"+id+"/start", "").want(200).machine(); m.Status != "running" {
		w.t.Errorf("started again: %+v", m)
	}
	a := w.delete("/machines/" + id).want(204) // of a running machine
	if len(a.body) != 0 {
		w.t.Errorf("delete answers %q", a.body)
	}
	w.get("/machines/"+id).refused(404, "not_found", "Machine not found")
	w.delete("/machines/"+id).refused(404, "not_found", "Machine not found")
	w.post("/machines/"+id+"/start", "").refused(404, "NotFoundError", "Machine not found")
	w.get("/machines/"+id+"/wait?status=running").refused(404, "NotFoundError", "Machine not found")
	w.post("/machines/"+id+"/exec", `{"command":["true"]}`).refused(404, "NotFoundError", "Machine not found")
}

// TestCurlRefusals covers what the docs say of requests that are refused.
func TestCurlRefusals(t *testing.T) {
	h := hosttest.New(t)
	for _, prefix := range prefixes {
		t.Run("prefix "+prefix, func(t *testing.T) {
			w := newWire(t, h, prefix)
			for _, body := range []string{
				`{}`, `{"name":"","vcpu_count":1,"mem_size_mib":128}`, `{"name":"x","vcpu_count":"1","mem_size_mib":128}`,
				`{"name":"x","vcpu_count":0,"mem_size_mib":128}`, `{"name":"x","vcpu_count":1,"mem_size_mib":3}`,
				`{"name":"x","vcpu_count":1,"mem_size_mib":128,"image_size_mib":63}`,
				`{"name":"x","vcpu_count":1,"mem_size_mib":128,"registry_auth":{"username":"u"}}`,
				`{"name":"x"`, `[]`, `null`, ``,
			} {
				if a := w.post("/machines", body); a.status != 400 {
					t.Errorf("%s: status %d, want 400: %s", body, a.status, a.body)
				}
			}
			w.post("/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,"image":"alpine","exposed_ports":[80.5]}`).
				refused(400, "ValidationError", "exposed_ports must be valid TCP ports")

			stranger := w
			for _, key := range []string{"", "hf_" + strings.Repeat("x", 32)} {
				stranger.key = key
				stranger.get("/machines").refused(401, "unauthorized", "Invalid or missing API key")
				stranger.post("/machines", `{}`).refused(401, "unauthorized", "Invalid or missing API key")
			}
			w.get("/no/such/route").refused(404, "not_found", "")
			w.curl("PUT", "/machines").refused(405, "method_not_allowed", "")
		})
	}
}

// TestCurlSystem covers the endpoints that need no key.
func TestCurlSystem(t *testing.T) {
	w := newWire(t, hosttest.New(t), "")
	w.key = ""
	if got := strings.TrimSpace(string(w.get("/health").want(200).body)); got != `{"status":"ok"}` {
		t.Errorf("health: %s", got)
	}
	var doc struct {
		OpenAPI string
		Info    struct{ Title string }
		Paths   map[string]json.RawMessage
	}
	w.get("/docs/json").want(200).into(&doc)
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || doc.Info.Title != "Hyperfleet API" || len(doc.Paths) == 0 {
		t.Errorf("document: %s, %q, %d paths", doc.OpenAPI, doc.Info.Title, len(doc.Paths))
	}
	if page := string(w.curl("GET", "/docs", "--location").want(200).body); !strings.Contains(page, "<html") {
		t.Errorf("docs: %.200s", page)
	}
}
