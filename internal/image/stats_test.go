package image

import (
	"net/http"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

func TestStatsOfPulls(t *testing.T) {
	r := newRig(t, nil)
	r.onBlob(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	if err := r.resolve(t); err == nil { // a miss
		t.Fatal("pulled what is forbidden")
	}
	r.reg.Fault(nil)
	for range 3 { // a miss and two hits
		if err := r.resolve(t); err != nil {
			t.Fatal(err)
		}
	}
	lease, err := r.store.Open(t.Context(), imagetest.Digest(t, r.img)) // a hit
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	st := r.store.Stats()
	bytes := st.Bytes
	st.Bytes = 0
	if want := (Stats{Images: 1, MaxBytes: 10 << 30, Hits: 3, Misses: 2, Pulls: 1, Failures: 1}); st != want || bytes < 3<<20 {
		t.Errorf("%+v with %d bytes, want %+v", st, bytes, want)
	}
}

func TestStatsOfImports(t *testing.T) {
	size := addImage(t, openStore(t, nil), "s").SizeBytes
	s := openStore(t, func(o *Options) { o.MaxBytes = size * 5 / 2 }) // two
	for _, name := range []string{"a", "b", "c"} {
		addImage(t, s, name)
	}
	if st := s.Stats(); st.Imports != 3 || st.Evictions == 0 || st.Images != 3-int(st.Evictions) || st.Bytes != size*int64(st.Images) {
		t.Errorf("%+v, an image has %d bytes", st, size)
	}
}
