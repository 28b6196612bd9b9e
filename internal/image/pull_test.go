package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// bigLayer is 3 MiB in a gzip file that holds it as it is: a cut leaves a part
// worth resuming.
var bigLayer = sync.OnceValue(func() []byte {
	body := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(body)
	var buf bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&buf, gzip.NoCompression) // a level that exists
	tw := tar.NewWriter(zw)
	for _, err := range []error{
		tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "big", Mode: 0o644, Size: int64(len(body))}),
		second(tw.Write(body)), tw.Close(), zw.Close(),
	} {
		if err != nil {
			panic(err)
		}
	}
	return buf.Bytes()
})

func second(_ int, err error) error { return err }

// rig is a registry with an image of one big layer, and a store.
type rig struct {
	reg   *imagetest.Server
	ref   string
	img   v1.Image
	layer []byte
	path  string // of the layer's blob
	store *Store
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{reg: imagetest.Registry(t), layer: bigLayer()}
	r.img = imagetest.Image(t, v1.Config{Env: []string{"A=b"}}, r.layer)
	r.ref = r.reg.Push(t, "team/app:1", r.img)
	layers, err := r.img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	r.path = "/v2/team/app/blobs/" + d.String()
	r.store = openStore(t, change)
	r.reg.Requests()
	return r
}

func (r *rig) resolve(t *testing.T) error {
	t.Helper()
	return resolve(t, r.store, r.ref, nil)
}

// resolve resolves and releases at once.
func resolve(t *testing.T, s *Store, ref string, auth *machine.RegistryAuth) error {
	t.Helper()
	lease, err := s.Resolve(t.Context(), machine.ImageRequest{Ref: ref, Auth: auth})
	if err == nil {
		lease.Release()
	}
	return err
}

func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	if got := errdefs.CodeOf(err); err == nil || got != code {
		t.Errorf("got %v (%s), want %s", err, got, code)
	}
}

// onBlob makes a fault of the layer's blob only.
func (r *rig) onBlob(f func(w http.ResponseWriter, req *http.Request)) {
	r.reg.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Method != http.MethodGet || req.URL.Path != r.path {
			return false
		}
		f(w, req)
		return true
	})
}

// serve sends the layer from the asked offset on, and cuts the connection after
// so many bytes.
func (r *rig) serve(w http.ResponseWriter, req *http.Request, limit int) {
	offset := 0
	if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &offset); err == nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", offset, len(r.layer)-1, len(r.layer)))
	}
	rest := r.layer[offset:]
	w.Header().Set("Content-Length", strconv.Itoa(len(rest)))
	if offset > 0 {
		w.WriteHeader(http.StatusPartialContent)
	}
	if limit >= len(rest) {
		w.Write(rest)
		return
	}
	w.Write(rest[:limit])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

func TestPullGoesOnWhereItWasCut(t *testing.T) {
	r := newRig(t, nil)
	var offsets []string
	r.onBlob(func(w http.ResponseWriter, req *http.Request) {
		offsets = append(offsets, req.Header.Get("Range"))
		r.serve(w, req, 1<<20+4096)
	})
	if err := r.resolve(t); err != nil {
		t.Fatal(err)
	}
	if len(offsets) != 3 || offsets[0] != "" || !strings.HasPrefix(offsets[1], "bytes=") || offsets[1] == offsets[2] {
		t.Errorf("asked for the ranges %q", offsets)
	}
}

// TestPullGoesOnAfterRestart keeps what arrived for the next daemon.
func TestPullGoesOnAfterRestart(t *testing.T) {
	r := newRig(t, nil)
	dir := r.store.opts.Dir
	var healed atomic.Bool
	var first atomic.Value
	r.onBlob(func(w http.ResponseWriter, req *http.Request) {
		if healed.Load() {
			first.CompareAndSwap(nil, req.Header.Get("Range"))
			r.serve(w, req, len(r.layer))
			return
		}
		if req.Header.Get("Range") != "" {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		r.serve(w, req, 2<<20)
	})
	requireCode(t, r.resolve(t), "REGISTRY_UNAVAILABLE")
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}
	healed.Store(true)
	s := openStoreIn(t, dir, nil)
	if err := resolve(t, s, r.ref, nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := first.Load().(string); !strings.HasPrefix(got, "bytes=") {
		t.Errorf("second pull began with the range %q", got)
	}
	if left := s.list("ingest"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestPullDropsBadBeginning starts anew when what an earlier pull left is wrong.
func TestPullDropsBadBeginning(t *testing.T) {
	r := newRig(t, nil)
	r.onBlob(func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, len(r.layer)) })
	name := hashName(strings.TrimSuffix(r.ref, ":1")+"@"+r.path[strings.LastIndex(r.path, "/")+1:]) + ".partial"
	if err := os.WriteFile(r.store.path("ingest", name), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.resolve(t); err != nil {
		t.Fatal(err)
	}
	if n := len(slices.DeleteFunc(r.reg.Requests(), func(s string) bool { return s != "GET "+r.path })); n != 2 {
		t.Errorf("layer was asked for %d times, want 2", n)
	}
}

// TestPullWithoutRanges manages with a registry that always sends everything.
func TestPullWithoutRanges(t *testing.T) {
	for name, status := range map[string]int{"ignored": http.StatusOK, "refused": http.StatusRequestedRangeNotSatisfiable} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			asked := 0
			r.onBlob(func(w http.ResponseWriter, req *http.Request) {
				asked++
				if req.Header.Get("Range") != "" && status != http.StatusOK {
					w.WriteHeader(status)
					return
				}
				req.Header.Del("Range")
				limit := len(r.layer)
				if asked == 1 {
					limit = 1 << 20
				}
				r.serve(w, req, limit)
			})
			if err := r.resolve(t); err != nil {
				t.Fatal(err)
			}
		})
	}
}

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

func TestPullRetries(t *testing.T) {
	r := newRig(t, nil)
	failures := map[string]int{}
	r.reg.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		failures[req.URL.Path]++
		if failures[req.URL.Path] > 2 {
			return false
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	})
	if err := r.resolve(t); err != nil {
		t.Fatal(err)
	}
}

func TestPullFollowsRedirect(t *testing.T) {
	r := newRig(t, nil)
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "" {
			t.Error("the login went to another host")
		}
		r.serve(w, req, len(r.layer))
	}))
	defer store.Close()
	r.reg.RequireLogin("u", "p")
	r.onBlob(func(w http.ResponseWriter, req *http.Request) {
		http.Redirect(w, req, strings.Replace(store.URL, "127.0.0.1", "localhost", 1)+"/x", http.StatusTemporaryRedirect)
	})
	if err := resolve(t, r.store, r.ref, &machine.RegistryAuth{Username: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
}

func TestPullRegistryAway(t *testing.T) {
	r := newRig(t, nil)
	r.reg.Close()
	requireCode(t, r.resolve(t), "REGISTRY_UNAVAILABLE")
}

func TestPullIndex(t *testing.T) {
	r := newRig(t, nil)
	other := imagetest.Image(t, v1.Config{}, imagetest.Tar(t, imagetest.File("other", "")))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips"}}},
		mutate.IndexAddendum{Add: r.img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})
	ref := r.reg.PushIndex(t, "team/many:1", index)
	lease, err := r.store.Resolve(t.Context(), machine.ImageRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	if want := imagetest.Digest(t, r.img); lease.Digest != want {
		t.Errorf("got %s, want %s", lease.Digest, want)
	}
	r.reg.Requests()
	if err := resolve(t, r.store, ref, nil); err != nil {
		t.Fatal(err)
	}
	if got := r.reg.Requests(); len(got) != 2 || !strings.HasPrefix(got[1], "HEAD ") {
		t.Errorf("second resolve asked %q", got)
	}
	only := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips"}}})
	requireCode(t, resolve(t, r.store, r.reg.PushIndex(t, "team/none:1", only), nil), "IMAGE_NO_PLATFORM")
}

func TestPullQuotas(t *testing.T) {
	many := make([]imagetest.Entry, 50)
	for i := range many {
		many[i] = imagetest.File(strconv.Itoa(i), "x")
	}
	bomb := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("zeros", strings.Repeat("\x00", 4<<20))))
	small := imagetest.Tar(t, imagetest.File("a", ""))
	for _, tc := range []struct {
		name   string
		limits Limits
		layers [][]byte
		code   string
	}{
		{"bytes", Limits{Bytes: 1 << 20}, [][]byte{bomb}, "IMAGE_TOO_LARGE"},
		{"bytes of the layers", Limits{Bytes: 100}, [][]byte{bomb}, "IMAGE_TOO_LARGE"},
		{"entries", Limits{Entries: 40}, [][]byte{imagetest.Tar(t, many...)}, "IMAGE_TOO_MANY_ENTRIES"},
		{"entries of all layers", Limits{Entries: 2}, [][]byte{small, small, small}, "IMAGE_TOO_MANY_ENTRIES"},
		{"layers", Limits{Layers: 2}, [][]byte{small, small, small}, "IMAGE_TOO_MANY_LAYERS"},
		{"manifest", Limits{ManifestBytes: 100}, [][]byte{small}, "IMAGE_MANIFEST_TOO_LARGE"},
		{"depth", Limits{PathDepth: 2}, [][]byte{imagetest.Tar(t, imagetest.File("a/b/c", ""))}, "IMAGE_PATH_TOO_DEEP"},
		{"time", Limits{Time: time.Nanosecond}, [][]byte{small}, "IMAGE_TIMEOUT"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reg := imagetest.Registry(t)
			ref := reg.Push(t, "bomb:1", imagetest.Image(t, v1.Config{}, tc.layers...))
			s := openStore(t, func(o *Options) { o.Limits = tc.limits })
			requireCode(t, resolve(t, s, ref, nil), tc.code)
			requireEmpty(t, s)
		})
	}
}
