package guestproto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"reflect"
	"testing"
)

func FuzzHeader(f *testing.F) {
	f.Add(appendFrame(nil, frameData, Stdout, 1, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < HeaderSize {
			return
		}
		h, err := parseHeader(b)
		if err == nil && !bytes.Equal(h.append(nil), b[:HeaderSize]) {
			t.Fatalf("%+v is not what was read", h)
		}
	})
}

func FuzzOpen(f *testing.F) {
	f.Add(appendOpen(nil, 1, "exec.start", []byte(`{"id":"a"}`))[HeaderSize:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		if m, req, err := parseOpen(b); err == nil && (m == "" || 1+len(m)+len(req) != len(b)) {
			t.Fatalf("method %q and %d bytes of %d", m, len(req), len(b))
		}
	})
}

// The search for a record ends, finds nothing that is none, and finds one that
// follows whatever came before.
func FuzzHandshakeRecord(f *testing.F) {
	r := record{kind: recordHello, version: Version, nonce: nonce{1}}
	f.Add([]byte{}, 1)
	f.Add(r.encode(), 7)
	f.Add(r.encode()[:40], 100)
	f.Fuzz(func(t *testing.T, junk []byte, _ int) {
		br := bufio.NewReader(bytes.NewReader(append(bytes.Clone(junk), r.encode()...)))
		for {
			got, err := nextRecord(br)
			if err != nil {
				t.Fatalf("the record was not found: %v", err)
			}
			if got == r {
				return
			}
			if !bytes.Contains(junk, got.encode()[:10]) {
				t.Fatalf("found %+v", got)
			}
		}
	})
}

// Both sides of the handshake are given anything, and end with their context
// or their connection.
func FuzzHandshake(f *testing.F) {
	f.Add(record{kind: recordHello, version: Version, nonce: nonce{1}}.encode(), true)
	f.Add(record{kind: recordKnock, version: Version}.encode(), false)
	f.Fuzz(func(t *testing.T, b []byte, host bool) {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			io.Copy(io.Discard, far)
		}()
		go func() {
			far.Write(b)
			far.Close()
		}()
		var c *Conn
		var err error
		if host {
			c, err = Connect(t.Context(), near, Config{})
		} else {
			c, err = Accept(t.Context(), near, Config{})
		}
		if err == nil {
			c.Close()
			t.Error("a session without knowing the nonce")
		}
		<-done
	})
}

// messages are all that is decoded from JSON, by either side.
func messages() []any {
	return []any{
		&Boot{}, &Ready{}, &Clock{}, &Shutdown{}, &ExecStart{}, &ExecAttach{}, &ExecStarted{}, &ExecExit{},
		&ExecSignal{}, &ExecRelease{}, &FilePath{}, &FileWrite{}, &FileWritten{}, &FileMkdir{}, &FileRemove{},
		&FileRename{}, &FileInfo{}, &Error{},
	}
}

// What decodes and validates survives being sent on.
func FuzzMessages(f *testing.F) {
	for i, m := range messages() {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), b)
	}
	f.Add(uint8(4), []byte(`{"id":"a","argv":["sh",{"base64":"/w=="}],"timeout_ms":5}`))
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		all := messages()
		m := all[int(i)%len(all)]
		if err := decode(b, m); err != nil {
			return
		}
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		n := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		if err := decode(again, n); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		last, _ := json.Marshal(n)
		if !bytes.Equal(again, last) {
			t.Fatalf("%s became %s", again, last)
		}
	})
}

func FuzzError(f *testing.F) {
	f.Add([]byte(`{"kind":"invalid","code":"X","message":"a\nb","errno":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e := parseError(b)
		if len(e.Message) > MaxErrorText || len(e.Code) > 64 || e.Code == "" || cleanText(e.Message, MaxErrorText) != e.Message {
			t.Fatalf("%+v", e)
		}
		if p, err := json.Marshal(e); err != nil || len(p) > MaxMessage || *parseError(p) != *e {
			t.Fatalf("%s, %v", p, err)
		}
	})
}

// FuzzConnHost and FuzzConnGuest give a live session anything: it ends or goes
// on, and never hangs nor leaks.
func FuzzConnHost(f *testing.F) {
	f.Add(appendFrame(appendFrame(nil, frameData, Stdout, 1, []byte("x")), frameEnd, 0, 1, []byte("{}")))
	f.Add(appendFrame(appendFrame(nil, frameMessage, 0, 2, []byte("1")), frameReset, 0, 2, []byte("{}")))
	f.Add(appendFrame(appendFrame(nil, frameCredit, Stdin, 1, credit(9)), framePing, 0, 0, make([]byte, 8)))
	f.Fuzz(func(t *testing.T, b []byte) { feed(t, b, true) })
}

func FuzzConnGuest(f *testing.F) {
	f.Add(appendOpen(nil, 1, "exec.start", []byte(`{}`)))
	f.Add(appendFrame(appendOpen(nil, 1, "file.write", make([]byte, MaxPayload)), frameEOF, Stdin, 1, nil))
	f.Add(appendFrame(appendOpen(nil, 1, "x", []byte(`{}`)), frameReset, 0, 1, nil))
	f.Fuzz(func(t *testing.T, b []byte) { feed(t, b, false) })
}

func feed(t *testing.T, b []byte, host bool) {
	near, far := net.Pipe()
	c := newTestConn(near, host)
	done := make(chan struct{}, 3)
	go func() {
		io.Copy(io.Discard, far)
		done <- struct{}{}
	}()
	work := func(s *Stream) {
		io.Copy(io.Discard, io.LimitReader(s.Reader(Stdout), 100))
		io.Copy(io.Discard, s.Reader(Stdin))
		s.Writer(Stdin).Write(make([]byte, 10))
		s.Writer(Stderr).Write(make([]byte, 10))
		s.Recv(context.Background())
		s.End(1)
		s.Close()
	}
	streams := 0
	if host {
		for range 2 {
			if s, err := c.Open(t.Context(), "x", nil); err == nil {
				streams++
				go func() { work(s); done <- struct{}{} }()
			}
		}
	} else {
		streams = 1
		go func() {
			for {
				s, err := c.Accept(context.Background())
				if err != nil {
					break
				}
				work(s)
			}
			done <- struct{}{}
		}()
	}
	far.Write(b)
	far.Close()
	c.Close()
	for range streams + 1 {
		<-done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if host && (c.places != 0 || len(c.streams) != 0 || c.held != 0 || c.growth != hostGrowth) {
		t.Fatalf("left: %d streams, %d bytes", c.places, c.held)
	}
}
