package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

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
