package guest

import (
	"context"
	"crypto/sha256"
	"hash"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/guest/guesttest"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// script is a guest that answers every stream but those of the set-up with a
// function.
type script struct {
	wg     sync.WaitGroup
	answer func(st *guestproto.Stream)
}

func (s *script) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	s.wg.Go(func() {
		conn, err := guestproto.Accept(ctx, far, guestproto.Config{})
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			st, err := conn.Accept(ctx)
			if err != nil {
				return
			}
			s.wg.Go(func() { s.serve(st) })
		}
	})
	return near, nil
}

func (s *script) serve(st *guestproto.Stream) {
	defer st.Close()
	switch st.Method() {
	case guestproto.MethodBoot, guestproto.MethodClock, guestproto.MethodExecRelease:
		st.End(guestproto.Empty{})
	default:
		s.answer(st)
	}
}

func startScript(t testing.TB, answer func(st *guestproto.Stream)) machine.Guest {
	t.Helper()
	sc := &script{answer: answer}
	s := New(context.Background(), slog.New(slog.DiscardHandler)).Open("m1", machine.BootConfig{}, sc.dial, nil)
	t.Cleanup(func() { s.Close(); sc.wg.Wait() })
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// mill is a guest whose only file is endless: reading gives size bytes,
// writing hashes what comes.
type mill struct {
	size int64
	sum  hash.Hash
}

func (m *mill) answer(st *guestproto.Stream) {
	switch st.Method() {
	case guestproto.MethodFileRead:
		st.Send(guestproto.FileInfo{Name: "x", Size: m.size})
		io.CopyN(st.Writer(guestproto.Download), endless{}, m.size)
		st.End(guestproto.Empty{})
	case guestproto.MethodFileWrite:
		m.sum = sha256.New()
		n, err := io.Copy(m.sum, st.Reader(guestproto.Upload))
		if err != nil {
			st.Fail(err)
			return
		}
		st.End(guestproto.FileWritten{Size: n})
	}
}

// endless gives a pattern without end.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(i * 7)
	}
	return len(p), nil
}

func startMill(t testing.TB, size int64) (*mill, machine.Guest) {
	t.Helper()
	m := &mill{size: size}
	return m, startScript(t, m.answer)
}

// allocated is how much f allocates in all, also what was freed meanwhile.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestLargeTransfersTakeNoMemory(t *testing.T) {
	const size = 128 << 20
	m, s := startMill(t, size)
	got := sha256.New()
	up := allocated(func() {
		n, err := s.WriteFile(t.Context(), "/x", 0o600, io.TeeReader(io.LimitReader(endless{}, size), got))
		if err != nil || n != size {
			t.Fatal(n, err)
		}
	})
	if string(got.Sum(nil)) != string(m.sum.Sum(nil)) {
		t.Error("other bytes came")
	}
	down := allocated(func() {
		_, r, err := s.ReadFile(t.Context(), "/x")
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if n, err := io.Copy(io.Discard, r); n != size || err != nil {
			t.Fatal(n, err)
		}
	})
	t.Logf("%d MiB up allocated %d KiB, down %d KiB", size>>20, up>>10, down>>10)
	if up > 4<<20 || down > 4<<20 {
		t.Errorf("allocated %d and %d bytes", up, down)
	}
}

func BenchmarkReadFile(b *testing.B) {
	const size = 64 << 20
	_, s := startMill(b, size)
	b.SetBytes(size)
	for b.Loop() {
		_, r, err := s.ReadFile(b.Context(), "/x")
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, r)
		r.Close()
	}
}

// BenchmarkExec is a whole short command without fork and exec.
func BenchmarkExec(b *testing.B) {
	g := guesttest.New(context.Background())
	defer g.Close()
	s := New(context.Background(), slog.New(slog.DiscardHandler)).Open("m1", machine.BootConfig{}, g.Dial, nil)
	defer s.Close()
	id := []byte("aaaaaaaaaaaa")
	for b.Loop() {
		for i := range id { // the next id
			if id[i]++; id[i] <= 'z' {
				break
			}
			id[i] = 'a'
		}
		p, err := s.Exec(b.Context(), machine.ExecRequest{ID: string(id), Argv: []string{"true"}})
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, p.Stdout())
		io.Copy(io.Discard, p.Stderr())
		if _, err := p.Wait(b.Context()); err != nil {
			b.Fatal(err)
		}
		p.Close()
	}
}
