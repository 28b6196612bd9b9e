package guestproto

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"
)

// raw is the far end of a session that says what it likes: it drains what it
// is sent unless deaf.
func raw(t *testing.T, host, deaf bool) (*Conn, net.Conn) {
	t.Helper()
	a, b := socketPair(t)
	c := newTestConn(a, host)
	t.Cleanup(func() { c.Close() })
	if !deaf {
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(io.Discard, b)
		}()
		t.Cleanup(func() { b.Close(); <-done })
	}
	return c, b
}

func credit(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// Each of these frames breaks a rule, and so the session.
func TestViolationsBreakSession(t *testing.T) {
	open := appendOpen(nil, 1, "x", []byte("{}"))
	big := make([]byte, MaxPayload)
	requests := func() (b []byte) { // a request above MaxRequest
		b = appendFrame(b, frameOpen, moreFlag, 1, append([]byte{1, 'x'}, big[:MaxPayload-2]...))
		for range MaxRequest/MaxPayload + 1 {
			b = appendFrame(b, frameOpen, moreFlag, 1, big)
		}
		return b
	}
	messages := func() (b []byte) {
		for range MaxMessages + 1 {
			b = appendFrame(b, frameMessage, 0, 1, []byte("1"))
		}
		return b
	}
	window := func(ch Channel) (b []byte) {
		for range InitialWindow / 1024 {
			b = appendFrame(b, frameData, ch, 1, big[:1024])
		}
		return appendFrame(b, frameData, ch, 1, []byte("x"))
	}
	for _, c := range []struct {
		name  string
		host  bool
		bytes []byte
	}{
		{"zeros", false, make([]byte, HeaderSize)},
		{"unknown type", true, []byte{77, 0, 0, 0, 0, 0, 0, 1}},
		{"channel out of range", true, []byte{2, 4, 0, 1, 0, 0, 0, 1, 0}},
		{"length above the limit", true, []byte{2, 2, 0xff, 0xff, 0, 0, 0, 1}},
		{"empty data", true, []byte{2, 2, 0, 0, 0, 0, 0, 1}},
		{"data on stream 0", true, []byte{2, 2, 0, 1, 0, 0, 0, 0, 1}},
		{"ping on a stream", true, appendFrame(nil, framePing, 0, 1, big[:8])},
		{"ping of 7 bytes", true, appendFrame(nil, framePing, 0, 0, big[:7])},
		{"the guest opens", true, appendOpen(nil, 2, "x", []byte("{}"))},
		{"a number left out", false, appendOpen(nil, 2, "x", []byte("{}"))},
		{"the same number again", false, append(open, open...)},
		{"no method", false, appendFrame(nil, frameOpen, 0, 1, []byte{0, 'x'})},
		{"method beyond the frame", false, appendFrame(nil, frameOpen, 0, 1, []byte{9, 'x'})},
		{"frame inside an open", false, append(appendFrame(nil, frameOpen, moreFlag, 1, []byte{1, 'x'}), appendFrame(nil, framePing, 0, 0, big[:8])...)},
		{"request too large", false, requests()},
		{"end from the host", false, appendFrame(open, frameEnd, 0, 1, []byte("{}"))},
		{"stream never opened", true, appendFrame(nil, frameData, Stdout, 99, []byte("x"))},
		{"data against the direction", true, appendFrame(nil, frameData, Stdin, 1, []byte("x"))},
		{"EOF against the direction", true, appendFrame(nil, frameEOF, Stdin, 1, nil)},
		{"EOF twice", true, appendFrame(appendFrame(nil, frameEOF, Stdout, 1, nil), frameEOF, Stdout, 1, nil)},
		{"data after EOF", true, appendFrame(appendFrame(nil, frameEOF, Stdout, 1, nil), frameData, Stdout, 1, []byte("x"))},
		{"credit against the direction", true, appendFrame(nil, frameCredit, Stdout, 1, credit(1))},
		{"credit of nothing", true, appendFrame(nil, frameCredit, Stdin, 1, credit(0))},
		{"credit overflow", true, appendFrame(nil, frameCredit, Stdin, 1, credit(0xffffffff))},
		{"data beyond the credit", true, window(Stderr)},
		{"input beyond the credit", false, append(appendOpen(nil, 1, "x", []byte("{}")), window(Stdin)...)},
		{"too many messages", true, messages()},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, far := raw(t, c.host, false)
			if c.host {
				if _, err := conn.Open(t.Context(), "x", nil); err != nil {
					t.Fatal(err)
				}
			}
			go far.Write(c.bytes)
			<-conn.Done()
			if err := conn.Err(); !errors.Is(err, ErrProtocol) || !errors.Is(err, ErrBroken) {
				t.Errorf("session ended with %v", err)
			}
		})
	}
}

// These are odd, and allowed.
func TestOddFramesAreDropped(t *testing.T) {
	conn, far := raw(t, true, false)
	s, err := conn.Open(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // what follows crosses with the reset
	b := appendFrame(nil, frameData, Stdout, 1, pattern(MaxPayload))
	b = appendFrame(b, frameMessage, 0, 1, []byte("nonsense"))
	b = appendFrame(b, frameCredit, Stdin, 1, credit(5))
	b = appendFrame(b, frameEnd, 0, 1, []byte("{}"))
	b = appendFrame(b, framePong, 0, 0, make([]byte, 8))
	s, err = conn.Open(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b = appendFrame(b, frameReset, 0, 2, []byte("\xff not json"))
	if _, err := far.Write(b); err != nil {
		t.Fatal(err)
	}
	err = s.Result(t.Context(), nil)
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeBadAnswer {
		t.Fatalf("reset without a reason: %v", err)
	}
	if err := conn.Err(); err != nil {
		t.Fatal(err)
	}
}

// heapGrowth is how much the heap grows while f runs and what it made is alive.
func heapGrowth(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.GC()
	runtime.ReadMemStats(&after)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}

// flood writes b again and again until the session ends or n bytes are out.
func flood(c *Conn, far net.Conn, n int, next func(i int) []byte) {
	w := bufio.NewWriterSize(far, 64<<10)
	for i := 0; n > 0 && c.Err() == nil; i++ {
		b := next(i)
		n -= len(b)
		if _, err := w.Write(b); err != nil {
			return
		}
	}
	w.Flush()
}

// A million OPENs cost the memory of the streams that are allowed, and are
// refused beyond.
func TestMillionOpens(t *testing.T) {
	guest, far := raw(t, false, false)
	const opens = 1_000_000
	grown := heapGrowth(func() {
		var b []byte
		flood(guest, far, opens*(HeaderSize+4), func(i int) []byte {
			if i%8192 == 0 { // no faster than the refusals leave, however busy the machine is
				await(t, func() bool {
					guest.mu.Lock()
					defer guest.mu.Unlock()
					return len(guest.out) < sendRoom || guest.err != nil
				})
			}
			b = appendOpen(b[:0], uint32(i+1), "x", []byte("{}"))
			return b
		})
		await(t, func() bool {
			guest.mu.Lock()
			defer guest.mu.Unlock()
			return guest.last >= opens || guest.err != nil
		})
	})
	if err := guest.Err(); err != nil {
		t.Fatalf("refusals are read, yet the session ended: %v", err)
	}
	guest.mu.Lock()
	places := guest.places
	guest.mu.Unlock()
	t.Logf("%d streams, heap grew by %d KiB", places, grown>>10)
	if places != MaxStreams+spareStreams || grown > 24<<20 {
		t.Errorf("%d streams, heap grew by %d bytes", places, grown)
	}
}

// The same from a host that does not read the refusals, and opens and resets.
func TestFloodsOfDeafPeer(t *testing.T) {
	reset := []byte(`{"code":"X"}`)
	for name, next := range map[string]func(b []byte, i int) []byte{
		"open": func(b []byte, i int) []byte { return appendOpen(b, uint32(i+1), "x", []byte("{}")) },
		"open and reset": func(b []byte, i int) []byte {
			return appendFrame(appendOpen(b, uint32(i+1), "x", []byte("{}")), frameReset, 0, uint32(i+1), reset)
		},
		"ping": func(b []byte, _ int) []byte { return appendFrame(b, framePing, 0, 0, make([]byte, 8)) },
		"large requests": func(b []byte, i int) []byte {
			return appendOpen(b, uint32(i+1), "x", make([]byte, MaxRequest))
		},
	} {
		t.Run(name, func(t *testing.T) {
			guest, far := raw(t, false, true)
			var b []byte
			grown := heapGrowth(func() {
				flood(guest, far, 64<<20, func(i int) []byte { b = next(b[:0], i); return b })
			})
			t.Logf("heap grew by %d KiB, session: %v", grown>>10, guest.Err())
			if grown > heldLimit+sendLimit+16<<20 {
				t.Errorf("heap grew by %d bytes", grown)
			}
		})
	}
}

// A guest that fills every window of many streams that nobody reads, and sends
// as many messages as it may, costs what the limits say.
func TestGuestFillsEverything(t *testing.T) {
	const streams = 1000
	host, far := raw(t, true, false)
	var kept []*Stream
	for range streams {
		s, err := host.Open(t.Context(), "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, s)
	}
	grown := heapGrowth(func() {
		flood(host, far, streams*2*(InitialWindow+HeaderSize), func(i int) []byte {
			return appendFrame(nil, frameData, Stdout+Channel(i%2), uint32(i/2+1), make([]byte, InitialWindow))
		})
		s := kept[streams-1]
		await(t, func() bool {
			host.mu.Lock()
			defer host.mu.Unlock()
			return s.recv[Stderr].got == InitialWindow
		})
	})
	t.Logf("%d streams, heap grew by %d KiB", streams, grown>>10)
	if limit := int64(streams * (2*InitialWindow + 2048)); grown > limit {
		t.Errorf("heap grew by %d bytes, above %d", grown, limit)
	}
	flood(host, far, 2*heldLimit, func(i int) []byte {
		return appendFrame(nil, frameMessage, 0, uint32(i/MaxMessages+1), pattern(MaxMessage))
	})
	<-host.Done()
	if err := host.Err(); !errors.Is(err, ErrProtocol) {
		t.Errorf("flood of messages: %v", err)
	}
	for _, s := range kept {
		s.Close()
	}
}

// The budget for windows is shared: streams beyond it keep their small window,
// and all data still comes.
func TestWindowBudget(t *testing.T) {
	host, guest := session(t)
	host.mu.Lock()
	host.growth = 2 * (Window - InitialWindow)
	host.mu.Unlock()
	serve(t, guest, func(s *Stream) {
		s.Writer(Stdout).Write(make([]byte, 1<<20))
		s.End(nil)
	})
	var open5 []*Stream
	for range 5 {
		s := open(t, host, "x", nil)
		if n, err := io.Copy(io.Discard, s.Reader(Stdout)); n != 1<<20 || err != nil {
			t.Fatal(n, err)
		}
		open5 = append(open5, s)
	}
	large := 0
	for _, s := range open5 {
		if s.recv[Stdout].window == Window {
			large++
		}
		s.Close()
	}
	host.mu.Lock()
	defer host.mu.Unlock()
	if large != 2 || host.growth != 2*(Window-InitialWindow) {
		t.Errorf("%d large windows, budget %d", large, host.growth)
	}
}

// A peer that never finishes the handshake costs nothing but the wait.
func TestHandshakeFlood(t *testing.T) {
	a, b := socketPair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	go io.Copy(io.Discard, b)
	go func() {
		for {
			r := record{kind: recordHello, version: Version, nonce: newNonce()}.encode()
			if _, err := b.Write(append(r, pattern(1000)...)); err != nil {
				return
			}
		}
	}()
	var err error
	grown := heapGrowth(func() { _, err = Connect(ctx, a, Config{}) })
	if !errors.Is(err, context.DeadlineExceeded) || grown > 1<<20 {
		t.Errorf("%v, heap grew by %d bytes", err, grown)
	}
}
