package image

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestPullFaults(t *testing.T) {
	status := func(code int) func(*rig, http.ResponseWriter, *http.Request) {
		return func(_ *rig, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	for _, tc := range []struct {
		name  string
		on    string // part of the path that is spoiled
		fault func(r *rig, w http.ResponseWriter, req *http.Request)
		code  string
	}{
		{"401 for the manifest", "/manifests/", status(401), "REGISTRY_UNAUTHORIZED"},
		{"403 for the manifest", "/manifests/", status(403), "REGISTRY_UNAUTHORIZED"},
		{"404 for the manifest", "/manifests/", status(404), "IMAGE_NOT_FOUND"},
		{"404 for a layer", "/blobs/", status(404), "IMAGE_NOT_FOUND"},
		{"429", "/manifests/", status(429), "REGISTRY_RATE_LIMITED"},
		{"500 for everything", "/", status(500), "REGISTRY_UNAVAILABLE"},
		{"503 for a layer", "/blobs/", status(503), "REGISTRY_UNAVAILABLE"},
		{"no registry", "/", func(_ *rig, w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>hello</html>") }, "IMAGE_CORRUPT"},
		{"redirect in a circle", "/blobs/", func(_ *rig, w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, req.URL.Path, http.StatusTemporaryRedirect)
		}, "REGISTRY_UNAVAILABLE"},
		{"redirect to plain HTTP", "/blobs/", func(_ *rig, w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, "http://192.0.2.1/blob", http.StatusTemporaryRedirect)
		}, "REGISTRY_UNAVAILABLE"},
		{"wrong bytes", "/blobs/", func(r *rig, w http.ResponseWriter, _ *http.Request) {
			wrong := bytes.Clone(r.layer)
			wrong[len(wrong)/2] ^= 1
			w.Write(wrong)
		}, "IMAGE_CORRUPT"},
		{"other layer", "/blobs/", func(r *rig, w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, len(r.layer))) }, "IMAGE_CORRUPT"},
		{"announces too much", "/blobs/", func(_ *rig, w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "999999999")
			w.Write([]byte("x"))
		}, "IMAGE_CORRUPT"},
		{"announces too little", "/blobs/", func(_ *rig, w http.ResponseWriter, _ *http.Request) { w.Write([]byte("x")) }, "IMAGE_CORRUPT"},
		{"never ends", "/blobs/", func(_ *rig, w http.ResponseWriter, _ *http.Request) {
			for zeros := make([]byte, 64<<10); ; {
				if _, err := w.Write(zeros); err != nil {
					return
				}
				w.(http.Flusher).Flush() // no length is known
			}
		}, "IMAGE_CORRUPT"},
		{"endless manifest", "/manifests/", func(_ *rig, w http.ResponseWriter, _ *http.Request) {
			for spaces := bytes.Repeat([]byte(" "), 64<<10); ; {
				if _, err := w.Write(spaces); err != nil {
					return
				}
			}
		}, "IMAGE_MANIFEST_TOO_LARGE"},
		{"stalls in a layer", "/blobs/", func(r *rig, w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(r.layer)))
			w.Write(r.layer[:100])
			w.(http.Flusher).Flush()
			<-req.Context().Done()
		}, "REGISTRY_UNAVAILABLE"},
		{"never answers", "/manifests/", func(_ *rig, _ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }, "REGISTRY_UNAVAILABLE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(o *Options) { o.StallTimeout = 200 * time.Millisecond })
			r.reg.Fault(func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, tc.on) || tc.on == "/blobs/" && req.URL.Path != r.path {
					return false
				}
				tc.fault(r, w, req)
				return true
			})
			requireCode(t, r.resolve(t), tc.code)
			requireEmpty(t, r.store)
			r.reg.Fault(nil)
			if err := r.resolve(t); err != nil {
				t.Errorf("pull after the fault: %v", err)
			}
		})
	}
}
