package imagetest

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Server is a registry on loopback. Its zero faults make it answer rightly.
// All methods are safe for concurrent use.
type Server struct {
	Host string // host:port, to begin references with
	http *httptest.Server

	mu       sync.Mutex
	fault    func(w http.ResponseWriter, r *http.Request) bool
	user     string
	password string
	requests []string
}

// Registry starts a registry that ends with the test.
func Registry(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.spoiled(w, r) {
			return
		}
		handler.ServeHTTP(w, r)
	}))
	s.Host = strings.TrimPrefix(s.http.URL, "http://")
	tb.Cleanup(s.Close)
	return s
}

// Close ends the registry before the test does.
func (s *Server) Close() { s.http.Close() }

// Fault sets a handler that sees every request first, and answers it if it
// returns true. Nil removes it.
func (s *Server) Fault(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// RequireLogin asks for a Basic login from now on; empty strings ask for none.
func (s *Server) RequireLogin(user, password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.user, s.password = user, password
}

// Requests returns what was asked so far, as "GET /v2/...", and forgets it.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.requests
	s.requests = nil
	return list
}

func (s *Server) spoiled(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	fault, user, password := s.fault, s.user, s.password
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	if u, p, _ := r.BasicAuth(); user != "" && (u != user || p != password) {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"login needed"}]}`, http.StatusUnauthorized)
		return true
	}
	return fault != nil && fault(w, r)
}

// Push puts an image under a name such as "team/app:1" and returns the whole
// reference. No login and no fault may be set.
func (s *Server) Push(tb testing.TB, repository string, img v1.Image) string {
	tb.Helper()
	ref, err := name.ParseReference(s.Host + "/" + repository)
	if err != nil {
		tb.Fatalf("parse reference: %v", err)
	}
	if err := remote.Write(ref, img); err != nil {
		tb.Fatalf("push %s: %v", ref, err)
	}
	return ref.Name()
}

// PushIndex puts an index under a name and returns the whole reference.
func (s *Server) PushIndex(tb testing.TB, repository string, index v1.ImageIndex) string {
	tb.Helper()
	ref, err := name.ParseReference(s.Host + "/" + repository)
	if err != nil {
		tb.Fatalf("parse reference: %v", err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		tb.Fatalf("push %s: %v", ref, err)
	}
	return ref.Name()
}
