package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"net/http"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// addImage imports an image that takes about 100 KiB of disk.
func addImage(t *testing.T, s *Store, name string) machine.Image {
	t.Helper()
	body := strings.Repeat(name+" is not zero. ", 100<<10/20)
	image, err := s.Import(t.Context(), bytes.NewReader(imagetest.Tar(t, imagetest.File("data", body))), ImportRequest{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func names(t *testing.T, s *Store) string {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var refs []string
	for _, info := range list {
		for _, ref := range info.Refs {
			refs = append(refs, strings.TrimSuffix(strings.TrimPrefix(ref, "docker.io/library/"), ":latest"))
		}
	}
	return strings.Join(refs, " ")
}

func TestEviction(t *testing.T) {
	var used atomic.Value
	used.Store(map[string]bool{})
	size := addImage(t, openStore(t, nil), "s").SizeBytes
	s := openStore(t, func(o *Options) {
		o.InUse = func() map[string]bool { return used.Load().(map[string]bool) }
		o.MaxBytes = size * 9 / 2 // four
	})
	a := addImage(t, s, "a")
	used.Store(map[string]bool{a.Digest: true})
	addImage(t, s, "b")
	leased, err := s.Resolve(t.Context(), machine.ImageRequest{Ref: "b"})
	if err != nil {
		t.Fatal(err)
	}
	addImage(t, s, "c")
	addImage(t, s, "d")
	if err := resolve(t, s, "c", nil); err != nil { // d is the least recent now
		t.Fatal(err)
	}
	addImage(t, s, "e")
	if got := names(t, s); got != "e c b a" {
		t.Errorf("cache holds %q", got)
	}
	leased.Release()
	leased.Release()
	addImage(t, s, "f")
	if got := names(t, s); got != "f e c a" {
		t.Errorf("after the release cache holds %q", got)
	}
}

func TestEvictionOrderSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	s := openStoreIn(t, dir, nil)
	addImage(t, s, "a")
	addImage(t, s, "b")
	if err := resolve(t, s, "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, openStoreIn(t, dir, nil)); got != "a b" {
		t.Errorf("cache holds %q", got)
	}
}

func TestImageLargerThanCache(t *testing.T) {
	s := openStore(t, func(o *Options) { o.MaxBytes = 50 << 10 })
	body := strings.Repeat("not zero", 100<<10/8)
	_, err := s.Import(t.Context(), bytes.NewReader(imagetest.Tar(t, imagetest.File("data", body))), ImportRequest{Name: "a"})
	requireCode(t, err, "IMAGE_EXCEEDS_CACHE")
	if !errdefs.Is(err, errdefs.Exhausted) {
		t.Errorf("kind is %s", errdefs.KindOf(err))
	}
	requireEmpty(t, s)
}

func TestDelete(t *testing.T) {
	inUse := map[string]bool{}
	s := openStore(t, func(o *Options) { o.InUse = func() map[string]bool { return inUse } })
	a := addImage(t, s, "a")
	requireCode(t, s.Delete(t.Context(), "unknown"), "IMAGE_NOT_FOUND")
	inUse[a.Digest] = true
	requireCode(t, s.Delete(t.Context(), "a"), "IMAGE_IN_USE")
	delete(inUse, a.Digest)
	lease, err := s.Open(t.Context(), a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	requireCode(t, s.Delete(t.Context(), a.Digest), "IMAGE_IN_USE")
	lease.Release()
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	requireEmpty(t, s)
	_, err = s.Open(t.Context(), a.Digest)
	requireCode(t, err, "IMAGE_NOT_FOUND")
}

func TestDeleteOneOfTwoNames(t *testing.T) {
	s := openStore(t, nil)
	data := imagetest.Tar(t, imagetest.File("a", "b"))
	for _, name := range []string{"one", "two"} {
		if _, err := s.Import(t.Context(), bytes.NewReader(data), ImportRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s); got != "two" {
		t.Errorf("left are %q", got)
	}
}

func TestPrune(t *testing.T) {
	inUse := map[string]bool{}
	s := openStore(t, func(o *Options) { o.InUse = func() map[string]bool { return inUse } })
	addImage(t, s, "a")
	b := addImage(t, s, "b")
	inUse[b.Digest] = true
	gone, freed, err := s.Prune(t.Context(), 0)
	if err != nil || len(gone) != 1 || freed < 100<<10 {
		t.Errorf("got %v, %d, %v", gone, freed, err)
	}
	if got := names(t, s); got != "b" {
		t.Errorf("left are %q", got)
	}
}

func TestStoreIsLocked(t *testing.T) {
	dir := t.TempDir()
	s := openStoreIn(t, dir, nil)
	_, err := Open(Options{Dir: dir})
	requireCode(t, err, "IMAGE_STORE_LOCKED")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	openStoreIn(t, dir, nil)
}

func TestClosedStore(t *testing.T) {
	r := newRig(t, nil)
	if err := r.store.Close(); err != nil {
		t.Fatal(err)
	}
	requireCode(t, r.resolve(t), "IMAGE_STORE_CLOSED")
	_, err := r.store.Import(t.Context(), bytes.NewReader(imagetest.Tar(t, imagetest.File("a", ""))), ImportRequest{Name: "a"})
	requireCode(t, err, "IMAGE_STORE_CLOSED")
}

// TestConcurrentPulls pulls once for all, and goes on when the first caller
// gives up.
func TestConcurrentPulls(t *testing.T) {
	r := newRig(t, nil)
	started, goOn := make(chan struct{}), make(chan struct{})
	var pulls atomic.Int32
	r.onBlob(func(w http.ResponseWriter, req *http.Request) {
		if pulls.Add(1) == 1 {
			close(started)
		}
		<-goOn
		r.serve(w, req, len(r.layer))
	})
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := r.store.Resolve(ctx, machine.ImageRequest{Ref: r.ref})
		first <- err
	}()
	<-started
	const others = 10
	var wg sync.WaitGroup
	var leases atomic.Int32
	joined := make(chan struct{}, others)
	for range others {
		wg.Go(func() {
			lease, err := r.store.Resolve(t.Context(), machine.ImageRequest{Ref: r.ref, Progress: func(machine.ImageProgress) {}})
			if err != nil {
				t.Error(err)
				return
			}
			leases.Add(1)
			lease.Release()
		})
		joined <- struct{}{}
	}
	awaitWaiters(t, r.store, others+1)
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first caller got %v", err)
	}
	close(goOn)
	wg.Wait()
	if pulls.Load() != 1 || leases.Load() != others {
		t.Errorf("%d downloads, %d leases", pulls.Load(), leases.Load())
	}
	if err := r.store.Delete(t.Context(), r.ref); err != nil {
		t.Errorf("a lease is left: %v", err)
	}
}

// awaitWaiters waits until so many callers are in the only flight.
func awaitWaiters(t *testing.T, s *Store, want int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		got := 0
		for _, f := range s.flights {
			got += f.waiters
		}
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("%d of %d callers have come", got, want)
		}
	}
}

// TestPullEndsWhenNobodyWaits ends the flight of callers who are gone, keeps
// what arrived, and lets the next caller succeed.
func TestPullEndsWhenNobodyWaits(t *testing.T) {
	r := newRig(t, nil)
	started := make(chan struct{})
	r.onBlob(func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(r.layer)))
		w.Write(r.layer[:1<<20])
		w.(http.Flusher).Flush()
		close(started)
		<-req.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.store.Resolve(ctx, machine.ImageRequest{Ref: r.ref})
		done <- err
	}()
	<-started
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	r.onBlob(func(w http.ResponseWriter, req *http.Request) { r.serve(w, req, len(r.layer)) })
	if err := r.resolve(t); err != nil {
		t.Error(err)
	}
}

// TestResolveProgress reports phases in order and ends with done.
func TestResolveProgress(t *testing.T) {
	r := newRig(t, nil)
	var phases []string
	lease, err := r.store.Resolve(t.Context(), machine.ImageRequest{Ref: r.ref, Progress: func(p machine.ImageProgress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
		if p.Phase == "pull" && (p.Total != int64(len(r.layer)) || p.Current > p.Total) {
			t.Errorf("progress is %+v", p)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	lease.Release()
	if got := strings.Join(phases, " "); !strings.HasPrefix(got, "resolve") || !strings.HasSuffix(got, "done") {
		t.Errorf("phases are %q", got)
	}
	if info, err := os.Stat(lease.BasePath); err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("base: %v, %v", info, err)
	}
}
