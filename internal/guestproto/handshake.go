package guestproto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"time"
)

type recordKind uint8

const (
	recordHello   recordKind = 1
	recordWelcome recordKind = 2
	recordStart   recordKind = 3
	recordKnock   recordKind = 4
)

// magic begins a record. Its first byte is no frame type and no ASCII.
const magic = "\x89HFMUX\r\n"

const recordSize = 48

type nonce [16]byte

// record is one message of the handshake.
type record struct {
	kind    recordKind
	version uint8
	nonce   nonce
	echo    nonce
}

func (r record) encode() []byte {
	b := make([]byte, 0, recordSize)
	b = append(b, magic...)
	b = append(b, byte(r.kind), r.version, 0, 0)
	b = append(append(b, r.nonce[:]...), r.echo[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
}

// parseRecord decodes recordSize bytes; ok is false when they are no record.
func parseRecord(b []byte) (r record, ok bool) {
	sum := binary.BigEndian.Uint32(b[recordSize-4:])
	if !bytes.HasPrefix(b, []byte(magic)) || sum != crc32.ChecksumIEEE(b[:recordSize-4]) {
		return record{}, false
	}
	r.kind, r.version = recordKind(b[8]), b[9]
	copy(r.nonce[:], b[12:])
	copy(r.echo[:], b[28:])
	return r, true
}

// nextRecord drops bytes until a record comes. After an error of the
// connection that passes (a deadline) it can be called again.
func nextRecord(br *bufio.Reader) (record, error) {
	for {
		b, err := br.Peek(recordSize)
		if r, ok := parseWhole(b); ok {
			_, err := br.Discard(recordSize)
			return r, err
		}
		// Skip to the next byte that may begin a record, or wait there.
		skip := len(b)
		if len(b) > 0 {
			if i := bytes.IndexByte(b[1:], magic[0]); i >= 0 {
				skip = 1 + i
			}
			if err != nil && b[0] == magic[0] {
				return record{}, err
			}
		}
		if _, derr := br.Discard(skip); derr != nil {
			return record{}, derr
		}
		if err != nil && br.Buffered() == 0 {
			return record{}, err
		}
	}
}

func parseWhole(b []byte) (record, bool) {
	if len(b) < recordSize {
		return record{}, false
	}
	return parseRecord(b)
}

func newNonce() (n nonce) {
	// A nonce tells fresh bytes from stale ones and is no secret. crypto/rand
	// would bring 32 MiB of zeroed data into the guest's init, for which a small
	// guest has no room.
	binary.LittleEndian.PutUint64(n[:8], rand.Uint64())
	binary.LittleEndian.PutUint64(n[8:], rand.Uint64())
	return n
}

// padding is more than a whole frame, so that it completes one that was left
// half written, and then is at least one frame of type 0.
var padding = [MaxPayload + 2*HeaderSize]byte{}

// Pauses between knocks.
const (
	firstKnock = 500 * time.Millisecond
	maxKnock   = 5 * time.Second
	// startPause is how long a guest that was answered may take to start
	// before it is taken for one that waits for the rest of a frame.
	startPause = 10 * time.Second
)

// HostConn is what the host's side of a session needs of a net.Conn. Package net
// itself would cost each guest its size and its start.
type HostConn interface {
	io.ReadWriteCloser
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// Connect is the host's side of the handshake on a new connection, and returns
// the session. It drops what an earlier session left in the channel, and wakes
// a guest that still believes in one. ctx bounds the handshake only; without a
// guest Connect waits until then. It owns nc, and closes it when it fails.
func Connect(ctx context.Context, nc HostConn, cfg Config) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	br := bufio.NewReaderSize(nc, readBuffer)
	err := hostHandshake(nc, br)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = nc.SetDeadline(time.Time{})
	}
	if err != nil {
		nc.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("handshake with the guest: %w", err)
	}
	return newConn(nc, br, cfg, true), nil
}

func hostHandshake(nc HostConn, br *bufio.Reader) error {
	host := newNonce()
	var answered nonce
	pause := firstKnock
	knock := time.Now().Add(pause)
	for {
		if err := nc.SetReadDeadline(knock); err != nil {
			return err
		}
		r, err := nextRecord(br)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if err := knockOn(nc, pause); err != nil {
				return err
			}
			pause = min(2*pause, maxKnock)
			knock = time.Now().Add(pause)
		case err != nil:
			return err
		case r.kind == recordStart && r.echo == host && r.nonce == answered:
			return nil
		case r.kind == recordHello && r.nonce != answered:
			if err := welcome(nc, r, host); err != nil {
				return err
			}
			answered = r.nonce
			knock = time.Now().Add(startPause)
		}
	}
}

// welcome answers a HELLO with the lower of both versions.
func welcome(nc HostConn, hello record, host nonce) error {
	if hello.version < MinVersion {
		return fmt.Errorf("%w: the guest speaks up to %d, the host %d to %d",
			ErrVersion, hello.version, MinVersion, Version)
	}
	r := record{kind: recordWelcome, version: min(hello.version, Version), nonce: host, echo: hello.nonce}
	return writeWithin(nc, r.encode(), maxKnock)
}

func knockOn(nc HostConn, limit time.Duration) error {
	if err := writeWithin(nc, padding[:], limit); err != nil {
		return err
	}
	return writeWithin(nc, record{kind: recordKnock, version: Version}.encode(), limit)
}

// writeWithin writes b, or a part of it when the guest does not read: the
// guest drops a part, and the next knock makes up for it.
func writeWithin(nc HostConn, b []byte, limit time.Duration) error {
	if err := nc.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := nc.Write(b); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// Accept is the guest's side of the handshake on a newly opened channel, and
// returns the session. On virtio-serial it waits until a host is connected and
// answers. ctx bounds the handshake only. It owns rwc, and closes it when it
// fails; closing rwc must end a blocked Read or Write. After an error, or the
// end of the session, the guest opens the channel anew and calls Accept again;
// it should wait a little between attempts that fail.
func Accept(ctx context.Context, rwc io.ReadWriteCloser, cfg Config) (*Conn, error) {
	stop := context.AfterFunc(ctx, func() { rwc.Close() })
	br := bufio.NewReaderSize(rwc, readBuffer)
	err := guestHandshake(rwc, br)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		rwc.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("handshake with the host: %w", err)
	}
	return newConn(rwc, br, cfg, false), nil
}

func guestHandshake(w io.Writer, br *bufio.Reader) error {
	hello := record{kind: recordHello, version: Version, nonce: newNonce()}
	if _, err := w.Write(hello.encode()); err != nil {
		return err
	}
	for {
		r, err := nextRecord(br)
		switch {
		case err != nil:
			return err
		case r.kind == recordKnock:
			if _, err := w.Write(hello.encode()); err != nil {
				return err
			}
		case r.kind == recordWelcome && r.echo == hello.nonce:
			return start(w, hello.nonce, r)
		}
	}
}

func start(w io.Writer, guest nonce, welcome record) error {
	if welcome.version < MinVersion || welcome.version > Version {
		return fmt.Errorf("%w: the host chose %d, the guest speaks %d to %d",
			ErrVersion, welcome.version, MinVersion, Version)
	}
	r := record{kind: recordStart, version: welcome.version, nonce: guest, echo: welcome.nonce}
	_, err := w.Write(r.encode())
	return err
}
