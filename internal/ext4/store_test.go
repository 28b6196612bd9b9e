package ext4

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// pattern returns content without zeros that differs from block to block.
func pattern(n int) []byte {
	b := make([]byte, 0, n+blockSize)
	for i := 0; len(b) < n; i++ {
		b = append(b, bytes.Repeat([]byte{byte(i) | 1}, blockSize)...)
	}
	return b[:n]
}

// oneFile finishes an image of one file and requires its content.
func oneFile(t *testing.T, w *Writer, image string, d *Data, content []byte) {
	t.Helper()
	n := &Node{Mode: TypeRegular, Data: d}
	s := &sample{root: NewDir(0o755, time.Time{}), content: map[*Node][]byte{n: content}}
	s.root.Children["file"] = n
	mustFinish(t, w, s.root)
	requireTree(t, image, s)
}

func TestStoreIsContiguous(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	content := pattern(1<<20 + 17)
	d, err := w.Store(iotest.OneByteReader(bytes.NewReader(content)), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.extents) != 1 || d.Size() != int64(len(content)) {
		t.Errorf("%d bytes in %d extents", d.Size(), len(d.extents))
	}
	oneFile(t, w, image, d, content)
}

func TestStoreMakesHoles(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	content := pattern(40 * blockSize)
	clear(content[2*blockSize : 3*blockSize])
	clear(content[10*blockSize : 30*blockSize])
	clear(content[39*blockSize:])
	before := w.alloc.tail
	d := mustStore(t, w, content)
	if got := w.alloc.tail - before; got != 18 {
		t.Errorf("%d blocks are used, want 18", got)
	}
	oneFile(t, w, image, d, content)
}

func TestStoreBoundsExtents(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	content := pattern(1000 * blockSize)
	for at := 0; at < len(content); at += 2 * blockSize {
		clear(content[at : at+blockSize])
	}
	d := mustStore(t, w, content)
	if len(d.extents) > 2*inlineExtents {
		t.Errorf("alternating content makes %d extents", len(d.extents))
	}
	oneFile(t, w, image, d, content)
}

func TestStoreSparseWithDeepExtentTree(t *testing.T) {
	const count, step = 1400, 17 * blockSize // more than 4 * 340 extents
	w, image := newTestWriter(t, Options{})
	content := make([]byte, count*step)
	var segments []Segment
	for i := range count {
		segments = append(segments, Segment{int64(i*step + 100), 10})
		copy(content[i*step+100:], "0123456789")
	}
	given := slices.Clone(segments)
	d, err := w.StoreSparse(strings.NewReader(strings.Repeat("0123456789", count)), int64(len(content)), segments)
	if err != nil {
		t.Fatal(err)
	}
	if len(d.extents) != count || !slices.Equal(given, segments) {
		t.Errorf("%d extents for %d segments", len(d.extents), count)
	}
	oneFile(t, w, image, d, content)
}

func TestStoreOfHugeHole(t *testing.T) {
	w, _ := newTestWriter(t, Options{MaxSize: 1 << 20})
	d, err := w.StoreSparse(strings.NewReader("end"), MaxFileSize, []Segment{{0, 0}, {MaxFileSize - 3, 3}})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.extents) != 1 || d.extents[0].logical != 1<<32-2 {
		t.Errorf("extents %v", d.extents)
	}
}

func TestStoreErrorsKeepNothing(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		r    io.Reader
		size int64
		want func(error) bool
	}{
		"short":     {bytes.NewReader(pattern(1 << 20)), 1<<20 + 1, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"empty":     {strings.NewReader(""), 1, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		"broken":    {io.MultiReader(bytes.NewReader(pattern(1<<20)), iotest.ErrReader(broken)), 2 << 20, func(err error) bool { return errors.Is(err, broken) }},
		"too large": {bytes.NewReader(pattern(5 << 20)), 5 << 20, func(err error) bool { return errdefs.Is(err, errdefs.Exhausted) }},
		"negative":  {nil, -1, func(err error) bool { return errdefs.Is(err, errdefs.Invalid) }},
		"endless":   {nil, MaxFileSize + 1, func(err error) bool { return errdefs.Is(err, errdefs.Exhausted) }},
	} {
		t.Run(name, func(t *testing.T) {
			w, image := newTestWriter(t, Options{MaxSize: 4 << 20})
			if _, err := w.Store(test.r, test.size); !test.want(err) {
				t.Fatalf("got %v", err)
			}
			// All room is there again.
			content := pattern(3 << 20)
			oneFile(t, w, image, mustStore(t, w, content), content)
		})
	}
}

func TestStoreSparseRefusesSegments(t *testing.T) {
	w, _ := newTestWriter(t, Options{})
	for _, segments := range [][]Segment{
		{{-1, 1}}, {{0, -1}}, {{0, 101}}, {{101, 0}}, {{50, 1<<63 - 1}}, {{10, 5}, {14, 1}}, {{10, 5}, {0, 1}},
	} {
		if _, err := w.StoreSparse(strings.NewReader(""), 100, segments); errdefs.CodeOf(err) != "FILE_SEGMENTS_INVALID" {
			t.Errorf("%v: got %v", segments, err)
		}
	}
}

func TestDiscardIsReused(t *testing.T) {
	w, image := newTestWriter(t, Options{MaxSize: 8 << 20})
	content := pattern(3 << 20)
	for range 10 { // far more than fits at once
		d := mustStore(t, w, content)
		mustStore(t, w, pattern(1)) // keeps the tail away; never referred to
		w.Discard(d)
		w.Discard(d)
	}
	w.Discard(nil)
	oneFile(t, w, image, mustStore(t, w, content), content)
}

func TestStoreConcurrently(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	s := &sample{root: NewDir(0o755, time.Time{}), content: make(map[*Node][]byte)}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for layer := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(layer), 3))
			for i := range 60 {
				content := make([]byte, rng.IntN(100_000))
				for at := 0; at < len(content); at += blockSize {
					copy(content[at:], bytes.Repeat([]byte{byte(rng.Uint32N(3))}, blockSize))
				}
				d, err := w.Store(bytes.NewReader(content), int64(len(content)))
				if err != nil {
					t.Error(err)
					return
				}
				if i%3 == 0 {
					w.Discard(d)
					continue
				}
				n := &Node{Mode: TypeRegular, Data: d}
				mu.Lock()
				s.root.Children[string(rune('a'+layer))+names(60, 8)[i]] = n
				s.content[n] = content
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	mustFinish(t, w, s.root)
	requireTree(t, image, s)
}
