package httpapi

import (
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
)

const (
	mediaJSON = "application/json"
	// mediaNested in Accept asks for the forms of the reference's guides: an
	// error as an object of its own, a list as an object with its total.
	mediaNested = "application/vnd.hyperfleet.nested+json"
)

func wantsNested(accept string) bool { return strings.Contains(accept, mediaNested) }

// nestedError is the other form of an error.
type nestedError struct {
	Error nestedErrorBody `json:"error"`
}

type nestedErrorBody struct {
	Code    string                   `json:"code" doc:"Stable code, for programs" example:"VALIDATION_ERROR"`
	Message string                   `json:"message" doc:"What went wrong, for people"`
	Details []hyperfleet.ErrorDetail `json:"details,omitempty" doc:"The wrong fields of a refused request"`
}

func nest(b hyperfleet.ErrorBody) nestedError {
	return nestedError{nestedErrorBody{b.Code, b.Message, b.Details}}
}

// page is the other form of a list.
type page[T any] struct {
	Data   []T `json:"data"`
	Total  int `json:"total" doc:"How many there are without limit and offset"`
	Limit  int `json:"limit" doc:"As asked for; 0 means all"`
	Offset int `json:"offset" doc:"As asked for"`
}

// listContent documents both forms of a list.
func listContent[T any](s *Server) map[string]*huma.MediaType {
	content := jsonContent(schemaOf[[]T](s))
	content[mediaNested] = &huma.MediaType{Schema: schemaOf[page[T]](s)}
	return content
}
