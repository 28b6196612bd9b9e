package httpapi

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Observer counts requests. Its methods are called from many goroutines and
// must not block.
type Observer interface {
	// RequestEnded is told of each request when it has been answered. The
	// method is the caller's word. The route is the pattern of the operation
	// without its method, "" when there is none; the status is 0 when the
	// connection was cut before the answer.
	RequestEnded(method, route string, status int, took time.Duration)
}

// nobody observes nothing.
type nobody struct{}

func (nobody) RequestEnded(string, string, int, time.Duration) {}

// request is what we know of a request for its log lines. It is written before
// its handler runs and read after.
type request struct {
	id      string
	nested  bool        // the caller wants the nested forms
	pattern string      // of the mux; "" until it is known
	route   string      // pattern without method
	machine machine.ID  // "" for requests that concern none
	caller  auth.Caller // the zero Caller until it is known, and for what is public
}

type requestKey struct{}

// requestOf is the request of a context; never nil.
func requestOf(ctx context.Context) *request {
	if req, ok := ctx.Value(requestKey{}).(*request); ok {
		return req
	}
	return &request{}
}

// matched notes which operation the path names, and which machine.
func (r *request) matched(pattern, path string) {
	r.pattern = pattern
	if _, route, ok := strings.Cut(pattern, " "); ok {
		pattern = route
	}
	r.route = pattern
	rest, ok := strings.CutPrefix(path, "/machines/")
	if !ok {
		return
	}
	rest, _, _ = strings.Cut(rest, "/")
	if id, err := machine.ParseID(rest); err == nil {
		r.machine = id
	}
}

// attrs begin each log line of the request.
func (r *request) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("req", r.id)}
	if r.machine != "" {
		attrs = append(attrs, slog.String("machine", string(r.machine)))
	}
	if r.caller.Local || r.caller.KeyID != "" {
		attrs = append(attrs, slog.Any("caller", r.caller))
	}
	return attrs
}

// logger is the log of a request, for what outlives or serves it.
func (s *Server) logger(ctx context.Context) *slog.Logger {
	return slog.New(s.cfg.Log.Handler().WithAttrs(requestOf(ctx).attrs()))
}
