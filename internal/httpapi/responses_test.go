package httpapi

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func TestUndeclaredStatusIsNoticed(t *testing.T) {
	var log bytes.Buffer
	a := newAPI(t, func(c *Config) {
		c.Machines = failing{c.Machines, errdefs.New(errdefs.Unsupported, "X", "no")}
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	a.ask("GET", "/machines/abc", "")
	a.server.Close()
	a.http.Close()
	if want := `"GET /machines/{id}" status=501`; !strings.Contains(log.String(), want) {
		t.Errorf("%s is not in the log:\n%s", want, &log)
	}
}

// Every body of the document has an example that fits its schema, and every
// answer that is an error tells its codes.
func TestDocumentHasExamples(t *testing.T) {
	a := newAPI(t)
	registry := a.server.api.OpenAPI().Components.Schemas
	check := func(where string, content map[string]*huma.MediaType, mode huma.ValidateMode) {
		for mediaType, media := range content {
			if !strings.Contains(mediaType, "json") {
				continue
			}
			values := []any{media.Example}
			if media.Example == nil {
				values = nil
				for _, e := range media.Examples {
					values = append(values, e.Value)
				}
			}
			if len(values) == 0 {
				t.Errorf("%s %s has no example: add its type to examples.go", where, mediaType)
			}
			for _, v := range values {
				if problems := mismatch(t, registry, media.Schema, mode, v); problems != nil {
					t.Errorf("%s %s: example %v: %v", where, mediaType, v, problems)
				}
			}
		}
	}
	for path, item := range a.server.api.OpenAPI().Paths {
		for _, op := range operationsOf(item) {
			if op.RequestBody != nil {
				check(op.OperationID+" request", op.RequestBody.Content, huma.ModeWriteToServer)
			}
			for status, resp := range op.Responses {
				check(op.OperationID+" "+status, resp.Content, huma.ModeReadFromServer)
				if resp.Description == "" || resp.Headers[headerRequestID] == nil {
					t.Errorf("%s %s %s: no description, or no %s", op.Method, path, status, headerRequestID)
				}
			}
			for _, always := range []string{"400", "421", "500"} {
				if op.Responses[always] == nil {
					t.Errorf("%s does not tell of %s", op.OperationID, always)
				}
			}
			if len(op.Tags) != 1 || op.Summary == "" {
				t.Errorf("%s: tags %q, summary %q", op.OperationID, op.Tags, op.Summary)
			}
		}
	}
}

func operationsOf(item *huma.PathItem) []*huma.Operation {
	all := []*huma.Operation{item.Get, item.Post, item.Put, item.Delete, item.Patch, item.Head, item.Options, item.Trace}
	return slices.DeleteFunc(all, func(op *huma.Operation) bool { return op == nil })
}

// mismatch is what is wrong with a value that should fit a schema.
func mismatch(t *testing.T, registry huma.Registry, schema *huma.Schema, mode huma.ValidateMode, value any) []error {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var parsed any
	if err := json.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	res := &huma.ValidateResult{}
	huma.Validate(registry, schema, huma.NewPathBuffer(nil, 0), mode, parsed, res)
	return res.Errors
}

// Each kind has an example of its own, and each example a kind that is known.
func TestKindsHaveExamples(t *testing.T) {
	for _, c := range classes {
		shared := slices.ContainsFunc(codeExamples, func(e codeExample) bool { return e.kind == c.kind && len(e.tags) == 0 })
		if !shared {
			t.Errorf("%s has no example without tags", c.kind)
		}
	}
	for _, e := range codeExamples {
		if !slices.ContainsFunc(classes, func(c errorClass) bool { return c.kind == e.kind }) {
			t.Errorf("%s is of no class", e.code)
		}
	}
}

// Whoever asks for it gets the other form of errors and lists, and others not.
func TestNestedForms(t *testing.T) {
	a := newAPI(t)
	a.running()
	nested := []string{"Accept", "application/json, " + mediaNested}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/machines/nosuch", "", 404, `{"error":{"code":"NOT_FOUND","message":"Machine not found"}}`},
		{"POST", "/machines/nosuch/start", "", 404, `{"error":{"code":"NOT_FOUND","message":"Machine not found"}}`},
		{"POST", "/machines", `{}`, 400, `{"error":{"code":"VALIDATION_ERROR","message":"validation failed","details":[{"location":"body`},
		{"GET", "/nowhere", "", 404, `{"error":{"code":"NOT_FOUND","message":"No such route"}}`},
		{"PATCH", "/machines", "", 405, `{"error":{"code":"METHOD_NOT_ALLOWED"`},
		{"GET", "/machines?limit=1", "", 200, `"total":1,"limit":1,"offset":0}`},
	} {
		resp, body := a.ask(c.method, c.path, c.body, nested...)
		if resp.StatusCode != c.status || !strings.Contains(body, c.want) || resp.Header.Get("Content-Type") != mediaNested {
			t.Errorf("%s %s: %d %s %s\nwant %s", c.method, c.path, resp.StatusCode, resp.Header.Get("Content-Type"), body, c.want)
		}
	}
	if resp, body := a.ask("GET", "/machines", "", "Accept", "*/*"); !strings.HasPrefix(body, "[") || resp.Header.Get("Content-Type") != mediaJSON {
		t.Errorf("without asking: %s", body)
	}
	if resp, _ := a.ask("GET", "/health", "", nested...); resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != mediaJSON {
		t.Errorf("health: %s", resp.Header.Get("Content-Type"))
	}
}
