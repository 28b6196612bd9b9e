package httpapi

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet"
)

const (
	headerRequestID      = "X-Correlation-ID"
	headerIdempotencyKey = "Idempotency-Key"
	headerReplayed       = "Idempotency-Replayed"

	apiPrefix = "/api/v1" // every route is served with and without it
)

// Handler serves the API to callers with a key.
func (s *Server) Handler() http.Handler { return s.observe(s.guarded()) }

// TrustedHandler serves the API to callers who need no key: those that reach
// the unix socket, or everybody where the operator wants that.
func (s *Server) TrustedHandler() http.Handler { return s.observe(trusted(s.guarded())) }

// LoopbackHandler serves the API to callers who need no key, on a loopback
// listener. It refuses requests whose Host is not a name of the loopback, so
// that a web page whose domain is re-bound to 127.0.0.1 reaches nothing.
func (s *Server) LoopbackHandler() http.Handler {
	return s.observe(refuseForeignHosts(trusted(s.guarded())))
}

func (s *Server) guarded() http.Handler {
	return originPolicy(s.cfg.CORSOrigins).handler(http.HandlerFunc(s.route))
}

// route finds the handler for a path with or without prefix and trailing slash,
// and answers in our shape when there is none.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	r = withoutPrefix(r)
	r.Body = newSlowBody(w, r.Body)
	if r.Body != http.NoBody && r.ContentLength != 0 {
		// Every body that huma decodes is JSON, whatever the caller calls it
		// (curl -d says it is a form).
		r.Header.Set("Content-Type", "application/json")
	}
	if !clean(r) {
		noRoute(w, r) // the mux would redirect
		return
	}
	if _, pattern := s.mux.Handler(r); pattern != "" && s.literal.has(r) {
		requestOf(r.Context()).matched(pattern, r.URL.Path)
		s.mux.ServeHTTP(w, r)
		return
	}
	allow := s.allow(r)
	if allow == "" {
		noRoute(w, r)
		return
	}
	w.Header().Set("Allow", allow+", OPTIONS")
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	writeError(w, r, refusal(http.StatusMethodNotAllowed, "This method is not allowed here"))
}

// allow names the methods of the path, but OPTIONS; "" when it is no route.
func (s *Server) allow(r *http.Request) string {
	if methods, ok := s.literal[r.URL.Path]; ok {
		return strings.Join(methods, ", ")
	}
	probe := &discardWriter{header: http.Header{}}
	s.mux.ServeHTTP(probe, r)
	return probe.header.Get("Allow")
}

// literals are the methods of paths without parameters. They go before a
// pattern that would match as well: "pull" is no image of DELETE /images/{ref}.
type literals map[string][]string

func (l literals) add(method, path string) {
	if !strings.Contains(path, "{") {
		l[path] = append(l[path], method)
		if method == http.MethodGet {
			l[path] = append(l[path], http.MethodHead)
		}
		slices.Sort(l[path])
	}
}

// has reports whether the request's path has its method, as far as it is
// known here.
func (l literals) has(r *http.Request) bool {
	methods, ok := l[r.URL.Path]
	return !ok || slices.Contains(methods, r.Method)
}

// clean reports whether the path has no empty, "." or ".." segment.
func clean(r *http.Request) bool {
	p := r.URL.EscapedPath()
	return path.Clean(p) == p
}

// checkQuery refuses a query of which a part would be skipped silently; nil when
// there is none.
func (s *Server) checkQuery(r *http.Request) *apiError {
	if !wellEncoded(r.URL.RawQuery) {
		return refusal(http.StatusBadRequest, "The query is not well encoded")
	}
	if name := emptyParameter(r.URL.RawQuery, s.typed[requestOf(r.Context()).pattern]); name != "" {
		return refusal(http.StatusBadRequest, "validation failed",
			hyperfleet.ErrorDetail{Location: "query." + name, Message: "expected a value"})
	}
	return nil
}

// wellEncoded reports whether nothing of the query would be skipped silently.
func wellEncoded(query string) bool {
	if !strings.ContainsAny(query, "%;") {
		return true
	}
	_, err := url.ParseQuery(query)
	return err == nil
}

// emptyParameter finds one of the names that the query gives no value: huma
// would take it for absent.
func emptyParameter(query string, names []string) string {
	if query == "" || len(names) == 0 {
		return ""
	}
	for part := range strings.SplitSeq(query, "&") {
		if name, value, _ := strings.Cut(part, "="); value == "" && slices.Contains(names, name) {
			return name
		}
	}
	return ""
}

func noRoute(w http.ResponseWriter, r *http.Request) {
	writeError(w, r, refusal(http.StatusNotFound, "No such route"))
}

// withoutPrefix strips the API prefix and a trailing slash.
func withoutPrefix(r *http.Request) *http.Request {
	strip := func(p string) string {
		if rest, ok := strings.CutPrefix(p, apiPrefix); ok && (rest == "" || rest[0] == '/') {
			p = rest
		}
		if p = strings.TrimRight(p, "/"); p == "" {
			return "/"
		}
		return p
	}
	u := *r.URL
	u.Path = strip(u.Path)
	if u.RawPath != "" {
		u.RawPath = strip(u.RawPath)
	}
	r2 := *r
	r2.URL = &u
	return &r2
}

// discardWriter learns what the mux would answer.
type discardWriter struct{ header http.Header }

func (d *discardWriter) Header() http.Header         { return d.header }
func (d *discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (d *discardWriter) WriteHeader(int)             {}

// observe gives the request its correlation id, bounds the writing of the
// answer, logs and counts it, and turns a panic into an internal error.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &request{id: r.Header.Get(headerRequestID), nested: wantsNested(r.Header.Get("Accept"))}
		if !validRequestID(req.id) {
			req.id = newRequestID()
		}
		w.Header().Set(headerRequestID, req.id)
		rec := &recorder{ResponseWriter: w, ctl: http.NewResponseController(w)}
		began := time.Now()
		defer func() {
			v := recover()
			if err, _ := v.(error); v != nil && !errors.Is(err, http.ErrAbortHandler) {
				s.cfg.Log.Error("handler panicked", slog.String("req", req.id), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
				if rec.status == 0 {
					writeError(rec, r, refusal(http.StatusInternalServerError, "An unexpected error occurred"))
					v = nil
				}
			}
			if rec.status == 0 && v == nil {
				rec.status = http.StatusOK // net/http answers for a handler that wrote nothing
			}
			s.ended(r, req, rec.status, time.Since(began))
			s.checkDeclared(r, req.pattern, rec.status)
			if v != nil {
				panic(http.ErrAbortHandler) // breaks the connection, so that a cut answer is seen as cut
			}
		}()
		next.ServeHTTP(rec, r.WithContext(context.WithValue(r.Context(), requestKey{}, req)))
	})
}

// ended logs and counts a request. What changes something is worth a line; what
// only reads is so where one looks for a defect.
func (s *Server) ended(r *http.Request, req *request, status int, took time.Duration) {
	defer s.cfg.Observer.RequestEnded(r.Method, req.route, status, took)
	level := slog.LevelInfo
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		level = slog.LevelDebug
	}
	if status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	attrs := append(req.attrs(), slog.String("method", loggable(r.Method)), slog.String("path", loggable(r.URL.Path)),
		slog.String("route", req.route), slog.Int("status", status), slog.Duration("took", took))
	s.cfg.Log.LogAttrs(r.Context(), level, "request", attrs...)
}

// aKey is what an API key looks like.
var aKey = regexp.MustCompile(`hf_[A-Za-z0-9_-]{8,}`)

// maxLogged is how many bytes of a caller's word a line of the log holds. Headers
// may have 64 KiB, and whoever reaches the port, also without a key, would fill
// the log with as much for each request.
const maxLogged = 512

// loggable is a path or a method, shortened, without the keys that people put
// where an id belongs.
func loggable(word string) string {
	word = aKey.ReplaceAllString(word, "hf_[redacted]")
	if len(word) <= maxLogged {
		return word
	}
	return strings.ToValidUTF8(word[:maxLogged], "") + "..."
}

// validRequestID accepts what is safe to log and to echo.
func validRequestID(id string) bool {
	if id == "" || len(id) > 128 || aKey.MatchString(id) {
		return false
	}
	return strings.IndexFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) < 0
}

func newRequestID() string {
	return "req_" + strconv.FormatInt(time.Now().UnixMilli(), 36) + "_" + strings.ToLower(rand.Text()[:6])
}

// writeStall is how long a caller may leave a part of the answer unread.
const writeStall = time.Minute

// recorder remembers the status and ends answers that nobody reads.
type recorder struct {
	http.ResponseWriter
	ctl    *http.ResponseController
	status int
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	_ = w.ctl.SetWriteDeadline(time.Now().Add(writeStall)) // not every writer of a test can
	return w.ResponseWriter.Write(p)
}

// Hijack notes that the connection now speaks another protocol.
func (w *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := w.ctl.Hijack()
	if err == nil && w.status == 0 {
		w.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// refuseForeignHosts answers 421 unless Host is localhost or a loopback address.
func refuseForeignHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
		if !strings.EqualFold(host, "localhost") && (err != nil || !addr.IsLoopback()) {
			writeError(w, r, refusal(http.StatusMisdirectedRequest, "This listener answers for localhost only"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
