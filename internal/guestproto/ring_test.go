package guestproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
)

func TestRingReplay(t *testing.T) {
	r := NewRing(100, 40)
	r.Write(pattern(100))
	rr := r.Reader(0)
	read := func(n int) string {
		b := make([]byte, n)
		m, err := rr.Read(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:m])
	}
	if got := read(50); got != string(pattern(50)) {
		t.Fatalf("got %q", got)
	}
	if _, err := rr.Read(t.Context(), nil); err != nil { // done with them
		t.Fatal(err)
	}
	r.Write([]byte("0123456789")) // room: bytes 0..9 are older than the 40 kept
	if start, end := r.Range(); start != 10 || end != 110 {
		t.Fatalf("kept %d..%d", start, end)
	}
	rr = r.Reader(5)
	if rr.Offset() != 10 {
		t.Fatalf("reader begins at %d, want the oldest byte", rr.Offset())
	}
	want := append(pattern(100), "0123456789"...)[10:]
	if got := read(60) + read(60) + read(60); got != string(want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if rr = r.Reader(1000); rr.Offset() != 110 {
		t.Fatalf("reader begins at %d, want the end", rr.Offset())
	}
}

// Random writes and reads, with readers that go back by up to keep bytes, give
// the bytes exactly.
func TestRingRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		keep := rng.IntN(500)
		size := keep + 1 + rng.IntN(20_000)
		r := NewRing(size, keep)
		want := pattern(50_000)
		go func() {
			for rest := want; len(rest) > 0; {
				n := min(len(rest), 1+rng.IntN(3000))
				r.Write(rest[:n])
				rest = rest[n:]
			}
			r.CloseWrite()
		}()
		got := make([]byte, 0, len(want))
		lrng := rand.New(rand.NewPCG(3, uint64(size)))
		rr := r.Reader(0)
		furthest := 0
		buf := make([]byte, 4000)
		for {
			n, err := rr.Read(t.Context(), buf[:1+lrng.IntN(len(buf))])
			if errors.Is(err, io.EOF) {
				break
			}
			got = append(got, buf[:n]...)
			if lrng.IntN(5) == 0 {
				furthest = max(furthest, len(got))
				oldest := max(furthest-keep, 0)
				got = got[:oldest+lrng.IntN(len(got)-oldest+1)]
				if rr = r.Reader(int64(len(got))); rr.Offset() != int64(len(got)) {
					t.Fatalf("byte %d is gone, reader begins at %d", len(got), rr.Offset())
				}
			}
		}
		if !bytes.Equal(got, want) || r.Size() > size {
			t.Fatalf("size %d keep %d: bytes differ, or %d bytes of memory", size, keep, r.Size())
		}
	}
}

func TestRingBlocksAndWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRing(10, 5)
		rr := r.Reader(0)
		written := make(chan error, 1)
		go func() {
			_, err := r.Write(pattern(30))
			written <- err
		}()
		synctest.Wait()
		if _, end := r.Range(); end != 10 {
			t.Errorf("%d bytes fit into 10", end)
		}
		got := make([]byte, 30)
		for n := 0; n < 30; {
			m, err := rr.Read(t.Context(), got[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += m
		}
		if err := <-written; err != nil || !bytes.Equal(got, pattern(30)) {
			t.Errorf("got %q, %v", got, err)
		}

		ctx, cancel := context.WithCancel(t.Context())
		read := make(chan error, 1)
		wait := func(ctx context.Context, rr *RingReader) {
			_, err := rr.Read(ctx, got)
			read <- err
		}
		go wait(ctx, rr)
		synctest.Wait()
		cancel()
		if err := <-read; !errors.Is(err, context.Canceled) {
			t.Errorf("canceled read: %v", err)
		}
		go wait(t.Context(), rr)
		synctest.Wait()
		second := r.Reader(30)
		if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("read of a reader that was replaced: %v", err)
		}
		go wait(t.Context(), second)
		synctest.Wait()
		r.Close()
		if err := <-read; !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("read of a closed ring: %v", err)
		}
		if _, err := r.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) || r.Size() != 0 {
			t.Errorf("write to a closed ring: %v, %d bytes", err, r.Size())
		}
	})
}

func TestRingSkipAndDrop(t *testing.T) {
	r := NewRing(100, 10)
	r.Skip(1 << 40)
	r.Write([]byte("abc"))
	rr := r.Reader(1<<40 + 1)
	b := make([]byte, 10)
	if n, err := rr.Read(t.Context(), b); string(b[:n]) != "bc" || err != nil {
		t.Fatalf("got %q, %v", b[:n], err)
	}
	r.Write([]byte("gone"))
	r.Drop()
	r.Write([]byte("kept"))
	if n, err := rr.Read(t.Context(), b); string(b[:n]) != "kept" || err != nil || rr.Offset() != 1<<40+11 {
		t.Fatalf("got %q at %d, %v", b[:n], rr.Offset(), err)
	}
}
