package httpapi

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

type response[T any] struct{ Body T }

func (s *Server) registerSystem() {
	register(s, huma.Operation{
		OperationID: "health", Security: public, Method: http.MethodGet, Path: "/health", Summary: "The daemon answers", Tags: []string{"system"},
	}, func(context.Context, *struct{}) (*response[hyperfleet.Health], error) {
		return &response[hyperfleet.Health]{hyperfleet.Health{Status: "ok"}}, nil
	})
	register(s, huma.Operation{
		OperationID: "ready", Security: public, Method: http.MethodGet, Path: "/ready", Summary: "The daemon can do its work", Tags: []string{"system"},
	}, func(ctx context.Context, _ *struct{}) (*response[hyperfleet.Health], error) {
		if err := s.cfg.Ready(ctx); err != nil {
			return nil, err
		}
		return &response[hyperfleet.Health]{hyperfleet.Health{Status: "ok"}}, nil
	}, failures{errdefs.Unavailable})
	register(s, huma.Operation{
		OperationID: "version", Security: public, Method: http.MethodGet, Path: "/version", Summary: "Which build this is", Tags: []string{"system"},
	}, func(context.Context, *struct{}) (*response[hyperfleet.Version], error) {
		return &response[hyperfleet.Version]{hyperfleet.Version{Version: buildinfo.Version(), Runtime: s.cfg.Runtime}}, nil
	})
}
