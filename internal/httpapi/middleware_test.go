package httpapi

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Nobody fills the log faster than by its own count of requests.
func TestLogLineIsBounded(t *testing.T) {
	var log bytes.Buffer
	s := &Server{cfg: Config{Log: slog.New(slog.NewTextHandler(&log, nil)), Observer: nobody{}}}
	secret := "hf_" + strings.Repeat("k", 32)
	// The key lies across the place where the path is cut.
	r := httptest.NewRequest(strings.Repeat("M", 30<<10), "/"+strings.Repeat("p", maxLogged-20)+"/"+secret+strings.Repeat("/é", 10<<10), nil)
	s.ended(r, &request{id: "req_1"}, http.StatusNotFound, 0)
	line := log.String()
	if len(line) > 2*maxLogged+256 {
		t.Errorf("%d bytes", len(line))
	}
	if strings.Contains(line, "kkk") {
		t.Errorf("a part of the key: %s", line)
	}
	if !strings.Contains(line, "method=MMM") || !strings.Contains(line, "path=/ppp") {
		t.Errorf("neither method nor path: %s", line)
	}
}
