package guestproto

import (
	"io"
	"testing"
)

// BenchmarkEchoRaw is the floor for BenchmarkEcho: the same number of bytes,
// there and back, over the same kind of socket without anything of ours.
func BenchmarkEchoRaw(b *testing.B) {
	near, far := socketPair(b)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 100)
		for {
			n, err := far.Read(buf)
			if err != nil {
				return
			}
			far.Write(buf[:n])
		}
	}()
	buf := make([]byte, 60)
	for b.Loop() {
		near.Write(buf)
		if _, err := io.ReadFull(near, buf); err != nil {
			b.Fatal(err)
		}
	}
	near.Close()
	<-done
}

// BenchmarkEcho is a whole small request: a new stream, JSON there and back.
func BenchmarkEcho(b *testing.B) {
	host, guest := session(b)
	serve(b, guest, func(s *Stream) { s.End(Empty{}) })
	for b.Loop() {
		s, err := host.Open(b.Context(), MethodPing, Empty{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Result(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

// BenchmarkShortExec is what `true` costs beside fork and exec.
func BenchmarkShortExec(b *testing.B) {
	host, guest := session(b)
	serve(b, guest, func(s *Stream) {
		var req ExecStart
		if err := s.Request(&req); err != nil {
			b.Error(err)
		}
		s.SendSoon(ExecStarted{}, 1e9)
		s.End(ExecExit{})
	})
	for b.Loop() {
		s, err := host.Open(b.Context(), MethodExecStart, ExecStart{ID: "a", Argv: []Text{"true"}})
		if err != nil {
			b.Fatal(err)
		}
		var started ExecStarted
		var exit ExecExit
		if err := s.Message(b.Context(), &started); err != nil {
			b.Fatal(err)
		}
		if err := s.Result(b.Context(), &exit); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

const block = 32 << 10

// BenchmarkDataRaw is the floor for BenchmarkData.
func BenchmarkDataRaw(b *testing.B) {
	near, far := socketPair(b)
	b.SetBytes(block)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, block)
		for {
			if _, err := far.Write(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, block)
	for b.Loop() {
		if _, err := io.ReadFull(near, buf); err != nil {
			b.Fatal(err)
		}
	}
	near.Close()
	<-done
}

// BenchmarkData is one data channel, from the guest to the host.
func BenchmarkData(b *testing.B) {
	host, guest := session(b)
	serve(b, guest, func(s *Stream) {
		buf := make([]byte, block)
		for {
			if _, err := s.Writer(Download).Write(buf); err != nil {
				return
			}
		}
	})
	b.SetBytes(block)
	s := open(b, host, MethodFileRead, Empty{})
	r := s.Reader(Download)
	buf := make([]byte, block)
	for b.Loop() {
		if _, err := io.ReadFull(r, buf); err != nil {
			b.Fatal(err)
		}
	}
	s.Close()
}
