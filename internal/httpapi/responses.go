package httpapi

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// failures are the kinds of error that an operation may answer with, told at
// its registration. What every operation may answer is not repeated: Internal, a
// malformed request, a foreign Host, and, by what it takes, a refused body or
// origin.
type failures []errdefs.Kind

var (
	// ofStore are those of a call that only reads the store.
	ofStore = failures{errdefs.Unavailable}
	// ofMachine are those of a call about one machine.
	ofMachine = failures{errdefs.NotFound, errdefs.Unavailable}
	// ofChange are those of a call that brings a machine into another state.
	ofChange = failures{errdefs.NotFound, errdefs.Conflict, errdefs.Exhausted, errdefs.Unavailable, errdefs.Timeout, errdefs.Runtime}
	// ofStart are those of the way up, beside ofChange.
	ofStart = failures{errdefs.Quota, errdefs.Invalid, errdefs.Unauthorized, errdefs.Forbidden, errdefs.Unsupported, errdefs.Guest}
	// ofGuest are those of a call that the guest answers; a guest may use any
	// kind that is not the host's own.
	ofGuest = failures{
		errdefs.Invalid, errdefs.Forbidden, errdefs.NotFound, errdefs.Conflict, errdefs.Exhausted,
		errdefs.Unsupported, errdefs.Unavailable, errdefs.Timeout, errdefs.Guest,
	}
	// ofRegistry are those of a call that may have to pull an image.
	ofRegistry = failures{
		errdefs.Invalid, errdefs.Unauthorized, errdefs.NotFound, errdefs.Exhausted, errdefs.Unsupported, errdefs.Unavailable, errdefs.Timeout,
	}
)

// document completes the responses of a registered operation: every status
// that it may answer, with a schema, headers and examples.
func (s *Server) document(op *huma.Operation, fails failures) {
	delete(op.Responses, "default")
	for _, media := range bodies(op.Responses) {
		s.addExample(media)
	}
	if op.RequestBody != nil {
		for _, media := range op.RequestBody.Content {
			s.addExample(media)
		}
	}
	for status, examples := range errorExamples(op, fails) {
		op.Responses[strconv.Itoa(status)] = s.errorResponse(status, examples)
	}
	pattern := strings.ToUpper(op.Method) + " " + op.Path
	for _, p := range op.Parameters {
		if p.In == "query" && (p.Schema.Type != huma.TypeString || p.Schema.Enum != nil) {
			s.typed[pattern] = append(s.typed[pattern], p.Name)
		}
	}
	declared := map[int]bool{}
	for status, resp := range op.Responses {
		if resp.Headers == nil {
			resp.Headers = map[string]*huma.Param{}
		}
		resp.Headers[headerRequestID] = &huma.Param{Ref: "#/components/headers/" + headerRequestID}
		if status == strconv.Itoa(http.StatusTooManyRequests) {
			resp.Headers["Retry-After"] = &huma.Param{Description: "Seconds to wait", Schema: &huma.Schema{Type: huma.TypeString}}
		}
		n, _ := strconv.Atoi(status) // huma and we write nothing else
		declared[n] = true
	}
	s.declared[pattern] = declared
}

// operation finds what huma has put into the document.
func (s *Server) operation(method, path string) *huma.Operation {
	item := s.api.OpenAPI().Paths[path]
	return map[string]*huma.Operation{
		http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put,
		http.MethodDelete: item.Delete, http.MethodPatch: item.Patch, http.MethodHead: item.Head,
	}[method]
}

func bodies(responses map[string]*huma.Response) []*huma.MediaType {
	var all []*huma.MediaType
	for _, r := range responses {
		for _, media := range r.Content {
			all = append(all, media)
		}
	}
	return all
}

// errorExamples are the errors that the operation may answer with, by status:
// those that it tells of and those that follow from what it takes.
func errorExamples(op *huma.Operation, fails failures) map[int][]hyperfleet.ErrorBody {
	byStatus := map[int][]hyperfleet.ErrorBody{}
	add := func(status int, body hyperfleet.ErrorBody) { byStatus[status] = append(byStatus[status], body) }
	for _, c := range classes {
		told := c.kind == errdefs.Internal || takesKey(op) && (c.kind == errdefs.Conflict || c.kind == errdefs.Throttled)
		if !told && !slices.Contains(fails, c.kind) {
			continue
		}
		for _, body := range examplesOf(c, op.Tags) {
			add(c.status, body)
		}
	}
	if scope, open := scopeOf(op); !open {
		add(http.StatusUnauthorized, publicError(auth.ErrUnauthorized).body)
		add(http.StatusForbidden, publicError(auth.Forbid(scope)).body)
	}
	for _, status := range transportStatuses(op) {
		body := refusals[status]
		body.Message = refusalExamples[status]
		if status == http.StatusBadRequest && op.RequestBody != nil {
			body.Details = []hyperfleet.ErrorDetail{{Location: "body.vcpu_count", Message: "expected integer"}}
		}
		add(status, body)
	}
	return byStatus
}

// transportStatuses are the refusals that may come before the handler.
func transportStatuses(op *huma.Operation) []int {
	statuses := []int{http.StatusBadRequest, http.StatusMisdirectedRequest}
	if _, open := scopeOf(op); !open {
		statuses = append(statuses, http.StatusTooManyRequests) // after wrong keys
	}
	if op.RequestBody != nil {
		statuses = append(statuses, http.StatusRequestTimeout)
		if op.RequestBody.Content[mediaJSON] != nil { // others are streamed
			statuses = append(statuses, http.StatusRequestEntityTooLarge)
		}
	}
	if op.Method != http.MethodGet && op.Method != http.MethodHead {
		statuses = append(statuses, http.StatusForbidden) // of another origin
	}
	return statuses
}

func (s *Server) errorResponse(status int, bodies []hyperfleet.ErrorBody) *huma.Response {
	plain := &huma.MediaType{Schema: s.errorSchema, Examples: map[string]*huma.Example{}}
	nested := &huma.MediaType{Schema: schemaOf[nestedError](s), Examples: map[string]*huma.Example{}}
	for _, body := range bodies {
		name := body.Code
		if e := plain.Examples[name]; e != nil && e.Summary != body.Message {
			name += " " + body.Error
		}
		plain.Examples[name] = &huma.Example{Summary: body.Message, Value: body}
		if len(nested.Examples) == 0 {
			nested.Examples[name] = &huma.Example{Summary: body.Message, Value: nest(body)}
		}
	}
	return &huma.Response{
		Description: http.StatusText(status),
		Content:     map[string]*huma.MediaType{mediaJSON: plain, mediaNested: nested},
	}
}

// addExample gives a JSON body the example of its type, see examples.go.
func (s *Server) addExample(media *huma.MediaType) {
	if media.Schema == nil || media.Example != nil || media.Examples != nil {
		return
	}
	media.Example = s.exampleOf(media.Schema)
}

func (s *Server) exampleOf(schema *huma.Schema) any {
	if schema.Ref != "" {
		return examples[s.api.OpenAPI().Components.Schemas.TypeFromRef(schema.Ref)]
	}
	if schema.Type == huma.TypeArray && schema.Items != nil {
		if item := s.exampleOf(schema.Items); item != nil {
			return []any{item}
		}
	}
	return nil
}

// undeclared is what the log says when an answer is not in the document: a
// defect of the registration. Tests fail on it.
const undeclared = "the answer's status is not in the OpenAPI document"

// checkDeclared notices a status that its operation does not declare. pattern
// is empty when something before the mux has answered.
func (s *Server) checkDeclared(r *http.Request, pattern string, status int) {
	if pattern == "" {
		if r = withoutPrefix(r); !clean(r) || !s.literal.has(r) {
			return
		}
		_, pattern = s.mux.Handler(r)
	}
	if declared, ok := s.declared[pattern]; ok && status != 0 && !declared[status] {
		s.cfg.Log.Error(undeclared, "operation", pattern, "status", status)
	}
}
