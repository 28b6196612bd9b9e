package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/swaggerui"
)

type response[T any] struct{ Body T }

func (s *Server) registerSystem() {
	register(s, huma.Operation{
		OperationID: "health", Method: http.MethodGet, Path: "/health", Summary: "The daemon answers", Tags: []string{"system"},
	}, func(context.Context, *struct{}) (*response[hyperfleet.Health], error) {
		return &response[hyperfleet.Health]{hyperfleet.Health{Status: "ok"}}, nil
	})
	register(s, huma.Operation{
		OperationID: "ready", Method: http.MethodGet, Path: "/ready", Summary: "The daemon can do its work", Tags: []string{"system"},
	}, func(ctx context.Context, _ *struct{}) (*response[hyperfleet.Health], error) {
		if err := s.cfg.Ready(ctx); err != nil {
			return nil, err
		}
		return &response[hyperfleet.Health]{hyperfleet.Health{Status: "ok"}}, nil
	}, failures{errdefs.Unavailable})
	register(s, huma.Operation{
		OperationID: "version", Method: http.MethodGet, Path: "/version", Summary: "Which build this is", Tags: []string{"system"},
	}, func(context.Context, *struct{}) (*response[hyperfleet.Version], error) {
		return &response[hyperfleet.Version]{hyperfleet.Version{Version: buildinfo.Version(), Runtime: s.cfg.Runtime}}, nil
	})
}

func openAPIConfig() huma.Config {
	format := huma.Format{
		Marshal:   huma.DefaultJSONFormat.Marshal,
		Unmarshal: json.Unmarshal,
	}
	cfg := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Hyperfleet API", Version: "1.0.0",
				Description: "OCI images as microVMs. Every path also works under /api/v1.",
			},
			Servers: []*huma.Server{{URL: apiPrefix}, {URL: "/"}},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				Headers: map[string]*huma.Header{headerRequestID: {
					Description: "The request's own, or a new one; it is in the daemon's log", Schema: &huma.Schema{Type: "string"},
				}},
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"bearerAuth": {Type: "http", Scheme: "bearer", Description: "An API key: `Authorization: Bearer hf_...`"},
					"apiKey":     {Type: "apiKey", In: "header", Name: "X-API-Key", Description: "The same key"},
				},
			},
			Tags: []*huma.Tag{{Name: "machines"}, {Name: "exec"}, {Name: "files"}, {Name: "images"}, {Name: "system"}},
		},
		Formats:       map[string]huma.Format{mediaJSON: format, "json": format}, // the second for types that end in +json
		DefaultFormat: mediaJSON,
	}
	cfg.AllowAdditionalPropertiesByDefault = true // unknown fields are ignored
	return cfg
}

// finishSpec renders the OpenAPI document and serves it. The mux's {ref...}
// is the one thing that OpenAPI writes differently.
func (s *Server) finishSpec() error {
	paths := s.api.OpenAPI().Paths
	for path, item := range paths {
		if plain := strings.ReplaceAll(path, "...}", "}"); plain != path {
			delete(paths, path)
			paths[plain] = item
		}
	}
	spec, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return fmt.Errorf("render the OpenAPI document: %w", err)
	}
	s.spec = spec
	for _, path := range []string{"/openapi.json", "/docs/json"} {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(s.spec) // the caller is gone if this fails
		})
	}
	return nil
}

// registerDocs serves the page that shows the document, see package swaggerui.
func (s *Server) registerDocs() {
	s.mux.Handle("GET /docs", swaggerui.Page("/docs"))
	s.mux.HandleFunc("GET /docs/assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		if !swaggerui.Asset(w, r) {
			noRoute(w, r)
		}
	})
}
