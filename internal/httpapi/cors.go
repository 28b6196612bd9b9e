package httpapi

import (
	"net/http"
	"slices"
	"strings"
)

// What a page of an allowed origin may send and read. A header that is missing
// here is one that browsers keep from the page.
var (
	corsMethods = strings.Join([]string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}, ", ")
	corsAllowed = strings.Join([]string{"Authorization", "X-API-Key", "Content-Type", "Accept", headerRequestID, headerIdempotencyKey}, ", ")
	corsExposed = strings.Join([]string{headerRequestID, "X-Total-Count", "Retry-After", "Allow", headerReplayed}, ", ")
)

// corsMaxAge is how long a browser may remember a preflight, in seconds.
const corsMaxAge = "600"

// originPolicy says which web pages of other origins may call the API: none,
// those of a list, or all of them ("*"). Keys travel in a header, which a page
// sets itself, so that browsers never need to add credentials of their own:
// Access-Control-Allow-Credentials is never sent.
type originPolicy []string

func (p originPolicy) allows(origin string) bool {
	return origin != "" && (p.all() || slices.Contains(p, origin))
}

func (p originPolicy) all() bool { return slices.Contains(p, "*") }

// handler answers preflights, which come without a key and before
// authentication, and lets pages of allowed origins read the answers. What
// comes from others is refused as before, without a header that would let the
// page read why.
func (p originPolicy) handler(next http.Handler) http.Handler {
	refuse := p.refuseForeignOrigins(next)
	if len(p) == 0 {
		return refuse
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if !p.all() {
			h.Add("Vary", "Origin")
		}
		origin := r.Header.Get("Origin")
		if !p.allows(origin) {
			refuse.ServeHTTP(w, r)
			return
		}
		if p.all() {
			origin = "*"
		}
		h.Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", corsMethods)
			h.Set("Access-Control-Allow-Headers", corsAllowed)
			h.Set("Access-Control-Max-Age", corsMaxAge)
			w.WriteHeader(http.StatusNoContent)
			return
		}
		h.Set("Access-Control-Expose-Headers", corsExposed)
		next.ServeHTTP(w, r)
	})
}

// refuseForeignOrigins keeps web pages of other origins from changing anything.
func (p originPolicy) refuseForeignOrigins(next http.Handler) http.Handler {
	guard := http.NewCrossOriginProtection()
	guard.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeError(w, r, refusal(http.StatusForbidden, "Cross-origin requests are refused"))
	}))
	return guard.Handler(next)
}
