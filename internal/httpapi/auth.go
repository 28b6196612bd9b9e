package httpapi

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet/internal/auth"
)

// Keys are the API keys: *auth.Keyring.
type Keys interface {
	// Authenticate returns who uses a key, or auth.ErrUnauthorized. It is
	// called for every request and must be fast.
	Authenticate(s auth.Secret) (auth.Caller, error)
	Create(ctx context.Context, by auth.Caller, req auth.CreateRequest) (auth.Key, auth.Secret, error)
	Get(ctx context.Context, id auth.KeyID) (auth.Key, error)
	List(ctx context.Context, limit, offset int) ([]auth.Key, int, error)
	Revoke(ctx context.Context, id auth.KeyID) error
}

// The security schemes of the document.
const (
	bearerAuth = "bearerAuth"
	apiKeyAuth = "apiKey"

	headerAPIKey = "X-API-Key"
)

// public is the Security of an operation that is open to everybody.
var public = []map[string][]string{}

// needs is the Security of an operation: a key with the scope, in either
// header. It is both what the document tells and what authorize enforces.
func needs(scope auth.Scope) []map[string][]string {
	return []map[string][]string{{bearerAuth: {string(scope)}}, {apiKeyAuth: {string(scope)}}}
}

// scopeOf reads what public and needs wrote. An operation that declares nothing
// is for those who may do everything.
func scopeOf(op *huma.Operation) (scope auth.Scope, open bool) {
	switch {
	case op.Security == nil:
		return auth.All, false
	case len(op.Security) == 0:
		return "", true
	}
	return auth.Scope(op.Security[0][bearerAuth][0]), false
}

// authorize lets a request through to its operation when its caller may use
// it. It runs before the input is read: who has no key learns nothing about
// what is wrong with a query or a body.
func (s *Server) authorize(hc huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(hc)
	checked := func(hc huma.Context) {
		if e := s.checkQuery(r); e != nil {
			writeError(w, r, e)
			return
		}
		next(hc)
	}
	scope, open := scopeOf(hc.Operation())
	if open {
		checked(hc)
		return
	}
	caller, err := s.caller(r)
	if err != nil {
		s.refuseCaller(w, r)
		return
	}
	requestOf(hc.Context()).caller = caller
	if !caller.Allows(scope) {
		writeError(w, r, publicError(auth.Forbid(scope)))
		return
	}
	checked(huma.WithContext(hc, auth.WithCaller(hc.Context(), caller)))
}

// caller is who sends the request: whom the listener vouches for, or the owner
// of the key in it.
func (s *Server) caller(r *http.Request) (auth.Caller, error) {
	if c, ok := auth.CallerFrom(r.Context()); ok {
		return c, nil
	}
	secret, ok := secretOf(r.Header)
	if !ok {
		return auth.Caller{}, auth.ErrUnauthorized
	}
	return s.cfg.Keys.Authenticate(secret)
}

// secretOf finds the key in a request's headers. Authorization, where it is
// there, decides: "Bearer", one space and the key, to the letter.
func secretOf(h http.Header) (auth.Secret, bool) {
	const bearer = "Bearer "
	if values, ok := h["Authorization"]; ok {
		if len(values) != 1 || len(values[0]) <= len(bearer) || values[0][:len(bearer)] != bearer {
			return "", false
		}
		return auth.Secret(values[0][len(bearer):]), true
	}
	values := h[http.CanonicalHeaderKey(headerAPIKey)]
	if len(values) != 1 || values[0] == "" {
		return "", false
	}
	return auth.Secret(values[0]), true
}

// refuseCaller answers a caller that nobody knows. Wrong keys are answered the
// later the more of them come from one address; right ones never wait.
func (s *Server) refuseCaller(w http.ResponseWriter, r *http.Request) {
	if _, tried := secretOf(r.Header); tried && !s.throttle.Fail(r.Context(), remoteAddr(r)) {
		w.Header().Set("Retry-After", "5")
		w.Header().Set("Connection", "close")
		writeError(w, r, refusal(http.StatusTooManyRequests, "Too many failed attempts"))
		return
	}
	w.Header().Set("WWW-Authenticate", "Bearer")
	writeError(w, r, publicError(auth.ErrUnauthorized))
}

// remoteAddr is the other end of the connection; the zero Addr for one that
// has no address.
func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}

// trusted serves callers who need no key.
func trusted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(auth.WithCaller(r.Context(), auth.LocalCaller())))
	})
}
