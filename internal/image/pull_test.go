package image

import (
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

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
