package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet/internal/swaggerui"
)

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
					bearerAuth: {Type: "http", Scheme: "bearer", Description: "An API key: `Authorization: Bearer hf_...`"},
					apiKeyAuth: {Type: "apiKey", In: "header", Name: headerAPIKey, Description: "The same key"},
				},
			},
			Tags: []*huma.Tag{{Name: "machines"}, {Name: "exec"}, {Name: "files"}, {Name: "images"}, {Name: "keys"}, {Name: "system"}},
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
	spec, err := s.renderSpec()
	if err != nil {
		return fmt.Errorf("render the OpenAPI document: %w", err)
	}
	s.spec = spec
	for _, path := range []string{"/openapi.json", "/docs/json"} {
		s.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", mediaJSON)
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

// renderSpec is the document as JSON, made exact where huma validates by a rule
// that it does not tell: a property that is not required may also be null.
func (s *Server) renderSpec() ([]byte, error) {
	raw, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	schemas := doc["components"].(map[string]any)["schemas"].(map[string]any)
	for name := range requestSchemas(doc, schemas) {
		schema := schemas[name].(map[string]any)
		required, _ := schema["required"].([]any)
		properties, _ := schema["properties"].(map[string]any)
		for property, of := range properties {
			if !slices.Contains(required, any(property)) {
				properties[property] = orNull(of.(map[string]any))
			}
		}
	}
	for name := range schemas {
		for _, property := range s.nullRefs(name) {
			properties := schemas[name].(map[string]any)["properties"].(map[string]any)
			properties[property] = orNull(properties[property].(map[string]any))
		}
	}
	return json.Marshal(doc)
}

// orNull is the schema of what may also be null.
func orNull(schema map[string]any) map[string]any {
	if schema["$ref"] != nil {
		return map[string]any{"anyOf": []any{schema, map[string]any{"type": "null"}}}
	}
	if t, ok := schema["type"].(string); ok {
		schema["type"] = []any{t, "null"}
		if values, ok := schema["enum"].([]any); ok {
			schema["enum"] = append(values, nil)
		}
	}
	return schema
}

// requestSchemas are the names of the schemas that request bodies consist of.
func requestSchemas(doc, schemas map[string]any) map[string]bool {
	names := map[string]bool{}
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, v := range node {
				walk(v)
			}
		case map[string]any:
			ref, _ := node["$ref"].(string)
			if name, ok := strings.CutPrefix(ref, "#/components/schemas/"); ok && !names[name] {
				names[name] = true
				walk(schemas[name])
			}
			for _, v := range node {
				walk(v)
			}
		}
	}
	for _, item := range doc["paths"].(map[string]any) {
		for _, op := range item.(map[string]any) {
			if op, ok := op.(map[string]any); ok {
				walk(op["requestBody"])
			}
		}
	}
	return names
}

// nullRefs are the properties of a schema that are objects or null, and always
// there: pointers to structs. huma refuses the tag that would say so.
func (s *Server) nullRefs(name string) []string {
	t := s.api.OpenAPI().Components.Schemas.TypeFromRef("#/components/schemas/" + name)
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	for _, f := range reflect.VisibleFields(t) {
		tag := f.Tag.Get("json")
		if f.Type.Kind() != reflect.Pointer || f.Type.Elem().Kind() != reflect.Struct || tag == "" || strings.Contains(tag, ",") {
			continue
		}
		if schema := s.api.OpenAPI().Components.Schemas.Map()[name].Properties[tag]; schema != nil && schema.Ref != "" {
			names = append(names, tag)
		}
	}
	return names
}
