//go:build vm

package reference

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// prefixes are the two paths below which the API is served: the README's and
// the code's.
var prefixes = []string{"", "/api/v1"}

// wire asks a daemon as the reference's documentation does: by curl, over TCP,
// with a key.
type wire struct {
	t    testing.TB
	base string // scheme, host, port and prefix
	key  string // "" sends none
}

func newWire(t testing.TB, h *hosttest.Host, prefix string) wire {
	t.Helper()
	return wire{t: t, base: h.URL() + prefix, key: h.Key()}
}

// answer is what curl got.
type answer struct {
	t      testing.TB
	call   string
	status int
	body   []byte
}

// curl makes one request. Arguments beyond the path are curl's own, so that a
// line of the documentation can be taken as it is.
func (w wire) curl(method, path string, args ...string) answer {
	w.t.Helper()
	argv := []string{"--silent", "--show-error", "--globoff", "--max-time", "120", "--write-out", "\n%{http_code}", "--request", method}
	config := ""
	if w.key != "" {
		config = fmt.Sprintf("header = %q\n", "Authorization: Bearer "+w.key) // from standard input: ps shows no key
	}
	argv = append(append(argv, args...), "--config", "-", w.base+path)
	cmd := exec.CommandContext(w.t.Context(), "curl", argv...)
	cmd.Stdin = strings.NewReader(config)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("curl %s %s: %v: %s", method, path, err, stderr.String())
	}
	at := bytes.LastIndexByte(out, '\n')
	a := answer{t: w.t, call: method + " " + path, body: out[:at]}
	if _, err := fmt.Sscan(string(out[at+1:]), &a.status); err != nil {
		w.t.Fatalf("curl %s %s: no status in %q", method, path, out)
	}
	return a
}

// post sends a JSON body.
func (w wire) post(path, body string) answer {
	w.t.Helper()
	return w.curl("POST", path, "--header", "Content-Type: application/json", "--data-raw", body)
}

func (w wire) get(path string) answer    { w.t.Helper(); return w.curl("GET", path) }
func (w wire) delete(path string) answer { w.t.Helper(); return w.curl("DELETE", path) }

// want fails the test unless the status is the given one.
func (a answer) want(status int) answer {
	a.t.Helper()
	if a.status != status {
		a.t.Fatalf("%s: status %d, want %d: %s", a.call, a.status, status, a.body)
	}
	return a
}

// refused checks the error's class and, as part of it, its message.
func (a answer) refused(status int, name, message string) {
	a.t.Helper()
	a.want(status)
	var e hyperfleet.ErrorBody
	a.into(&e)
	if e.Error != name || !strings.Contains(e.Message, message) || e.Code == "" {
		a.t.Errorf("%s: %s, want error %q and message %q", a.call, a.body, name, message)
	}
}

func (a answer) into(v any) {
	a.t.Helper()
	if err := json.Unmarshal(a.body, v); err != nil {
		a.t.Fatalf("%s: %v: %s", a.call, err, a.body)
	}
}

// object is the body as JSON.
func (a answer) object() map[string]any {
	a.t.Helper()
	var v map[string]any
	a.into(&v)
	return v
}

func (a answer) machine() hyperfleet.Machine {
	a.t.Helper()
	var m hyperfleet.Machine
	a.into(&m)
	return m
}

func (a answer) machines() []hyperfleet.Machine {
	a.t.Helper()
	var list []hyperfleet.Machine
	a.into(&list)
	return list
}

// result is the body of an exec.
func (a answer) result() hyperfleet.ExecResult {
	a.t.Helper()
	var r hyperfleet.ExecResult
	a.into(&r)
	return r
}

// create makes a machine of an image by a request like the README's.
func (w wire) create(name, image string, more ...string) hyperfleet.Machine {
	w.t.Helper()
	fields := append([]string{fmt.Sprintf(`"name":%q,"vcpu_count":1,"mem_size_mib":128,"image":%q`, name, image)}, more...)
	return w.post("/machines", "{"+strings.Join(fields, ",")+"}").want(201).machine()
}

// running makes a machine and starts it.
func (w wire) running(name, image string, more ...string) hyperfleet.Machine {
	w.t.Helper()
	m := w.create(name, image, more...)
	return w.post("/machines/"+m.ID+"/start", "").want(200).machine()
}

// exec runs a command with the reference's default timeout.
func (w wire) exec(id string, argv ...string) hyperfleet.ExecResult {
	w.t.Helper()
	return w.post("/machines/"+id+"/exec", jsonOf(map[string]any{"command": argv})).want(200).result()
}

func jsonOf(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a value of the test itself
	}
	return string(b)
}

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
