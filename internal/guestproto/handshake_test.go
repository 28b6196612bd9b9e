package guestproto

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func newTestConn(nc net.Conn, host bool) *Conn {
	return newConn(nc, bufio.NewReaderSize(nc, readBuffer), Config{Idle: time.Hour}, host)
}

func TestRecordRoundTrip(t *testing.T) {
	r := record{recordWelcome, 1, newNonce(), newNonce()}
	b := r.encode()
	if len(b) != recordSize {
		t.Fatalf("record of %d bytes", len(b))
	}
	if got, ok := parseRecord(b); !ok || got != r {
		t.Fatalf("got %+v", got)
	}
	for i := range b {
		b[i] ^= 0x40
		if _, ok := parseRecord(b); ok {
			t.Fatalf("record with a wrong byte %d was taken", i)
		}
		b[i] ^= 0x40
	}
}

// Whatever came before, the next record is found.
func TestNextRecordSkipsGarbage(t *testing.T) {
	r := record{kind: recordHello, version: 1, nonce: newNonce()}
	whole := r.encode()
	for _, junk := range [][]byte{
		nil, {0x89}, []byte(magic), whole[:47], padding[:],
		bytes.Repeat([]byte(magic), 5), bytes.Repeat([]byte{0x89}, 100),
		pattern(100_000), append(pattern(33), whole[:9]...),
	} {
		for _, one := range []bool{false, true} {
			var in io.Reader = bytes.NewReader(append(bytes.Clone(junk), whole...))
			if one {
				in = iotestOneByte{in}
			}
			br := bufio.NewReader(in)
			if got, err := nextRecord(br); err != nil || got != r {
				t.Fatalf("after %d bytes of junk: %+v, %v", len(junk), got, err)
			}
			if _, err := nextRecord(br); !errors.Is(err, io.EOF) {
				t.Fatalf("at the end: %v", err)
			}
		}
	}
}

type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:min(1, len(p))]) }

// A host that finds bytes of an older session in the channel drops them, also
// an old HELLO.
func TestConnectDropsStaleBytes(t *testing.T) {
	a, b := socketPair(t)
	stale := record{kind: recordHello, version: 1, nonce: newNonce()}.encode()
	stale = append(stale, appendFrame(nil, frameData, Stdout, 9, pattern(5000))...)
	stale = append(stale, record{kind: recordStart, version: 1, nonce: newNonce(), echo: newNonce()}.encode()...)
	stale = append(stale, 2, 2, 0x70) // half a frame
	if _, err := b.Write(stale); err != nil {
		t.Fatal(err)
	}
	host, guest := connect(t, a, b, Config{})
	serve(t, guest, func(s *Stream) { s.End(nil) })
	if err := open(t, host, MethodPing, nil).Result(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
}

// serialPort is a channel that outlives who opens its ends, and tells neither
// that the other has gone: virtio-serial at its worst.
type serialPort struct {
	toGuest, toHost *Ring
	wg              sync.WaitGroup
}

func newSerialPort() *serialPort {
	return &serialPort{toGuest: NewRing(1<<20, 0), toHost: NewRing(1<<20, 0)}
}

func (p *serialPort) openHost() net.Conn  { return p.open(p.toHost, p.toGuest) }
func (p *serialPort) openGuest() net.Conn { return p.open(p.toGuest, p.toHost) }

func (p *serialPort) open(in, out *Ring) net.Conn {
	user, port := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	in.mu.Lock()
	pos := in.pos
	in.mu.Unlock()
	r := in.Reader(pos)
	p.wg.Go(func() {
		io.Copy(out, port)
		cancel()
	})
	p.wg.Go(func() {
		buf := make([]byte, 1000)
		for {
			n, err := r.Read(ctx, buf)
			if err != nil {
				return
			}
			if _, err := port.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	return user
}

func (p *serialPort) close() {
	p.toGuest.Close()
	p.toHost.Close()
	p.wg.Wait()
}

// A guest in the middle of a session with a host that is gone, even in the
// middle of its frame, is brought back by the next host.
func TestConnectWakesGuestInOldSession(t *testing.T) {
	for _, half := range []int{0, 1, 7, 8, 20, HeaderSize + 30_000} {
		synctest.Test(t, func(t *testing.T) { testWake(t, half) })
	}
}

func testWake(t *testing.T, half int) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	port := newSerialPort()
	defer port.close()
	guests := make(chan *Conn, 10)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { // the guest: one session after the other
		for {
			c, err := Accept(ctx, port.openGuest(), Config{Idle: time.Hour})
			if err != nil {
				return
			}
			guests <- c
			if s, err := c.Accept(ctx); err == nil && s.Method() == MethodPing {
				s.End(nil)
			}
			<-c.Done()
			c.Close()
		}
	})
	old, err := Connect(ctx, port.openHost(), Config{Idle: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	frame := appendFrame(appendOpen(nil, 1, "x", []byte("{}")), frameData, Stdin, 1, pattern(MaxPayload))
	old.rwc.Write(frame[:half])
	old.Close()
	host, err := Connect(ctx, port.openHost(), Config{Idle: time.Hour})
	if err != nil {
		t.Fatalf("after %d bytes of frames: %v", half, err)
	}
	first, second := <-guests, <-guests
	if !errors.Is(first.Err(), ErrProtocol) {
		t.Errorf("old session ended with %v", first.Err())
	}
	s, err := host.Open(ctx, MethodPing, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Result(ctx, nil); err != nil {
		t.Error(err)
	}
	s.Close()
	host.Close()
	cancel()
	second.Close()
}

func TestHandshakeEndsWithContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := Connect(ctx, a, Config{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("host: %v", err)
		}
		c, d := net.Pipe()
		defer d.Close()
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := Accept(ctx, c, Config{}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("guest: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("channel was left open: %v", err)
		}
	})
}

func TestHandshakeVersions(t *testing.T) {
	a, b := socketPair(t)
	go b.Write(record{kind: recordHello, version: 0, nonce: newNonce()}.encode())
	if _, err := Connect(t.Context(), a, Config{}); !errors.Is(err, ErrVersion) {
		t.Errorf("host met a guest that is too old: %v", err)
	}
	c, d := socketPair(t)
	go func() {
		br := bufio.NewReader(d)
		hello, _ := nextRecord(br)
		d.Write(record{kind: recordWelcome, version: Version + 1, nonce: newNonce(), echo: hello.nonce}.encode())
	}()
	if _, err := Accept(t.Context(), c, Config{}); !errors.Is(err, ErrVersion) {
		t.Errorf("guest met a host that is too new: %v", err)
	}
	// A newer guest is answered with our version.
	e, f := socketPair(t)
	go func() {
		f.Write(record{kind: recordHello, version: 200, nonce: nonce{1}}.encode())
		br := bufio.NewReader(f)
		w, _ := nextRecord(br)
		if w.version != Version {
			t.Errorf("host chose version %d", w.version)
		}
		f.Write(record{kind: recordStart, version: Version, nonce: nonce{1}, echo: w.nonce}.encode())
	}()
	host, err := Connect(t.Context(), e, Config{})
	if err != nil {
		t.Fatal(err)
	}
	host.Close()
}
