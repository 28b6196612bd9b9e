package guestproto

import (
	"encoding/binary"
	"fmt"
)

// frameType is the first byte of a frame. Zero is no type: zero bytes in the
// middle of a session are a host that knocks (see Connect).
type frameType uint8

const (
	frameOpen    frameType = 1
	frameData    frameType = 2
	frameMessage frameType = 3
	frameEOF     frameType = 4
	frameCredit  frameType = 5
	frameEnd     frameType = 6
	frameReset   frameType = 7
	framePing    frameType = 8
	framePong    frameType = 9
)

// moreFlag in the channel field of an OPEN says that the request goes on in
// the next frame.
const moreFlag Channel = 1

const (
	creditSize = 4 // bytes of a CREDIT's payload
	pingSize   = 8 // bytes of a PING's and PONG's payload
)

// header is the fixed part of a frame.
type header struct {
	typ    frameType
	ch     Channel
	length int // bytes of payload
	stream uint32
}

// append adds the encoded header to b.
func (h header) append(b []byte) []byte {
	b = append(b, byte(h.typ), byte(h.ch))
	b = binary.BigEndian.AppendUint16(b, uint16(h.length))
	return binary.BigEndian.AppendUint32(b, h.stream)
}

// appendFrame adds a whole frame to b; the payload is at most MaxPayload.
func appendFrame(b []byte, typ frameType, ch Channel, stream uint32, payload []byte) []byte {
	b = header{typ, ch, len(payload), stream}.append(b)
	return append(b, payload...)
}

// parseHeader decodes HeaderSize bytes and checks all that a header alone can
// be wrong in.
func parseHeader(b []byte) (header, error) {
	h := header{
		typ:    frameType(b[0]),
		ch:     Channel(b[1]),
		length: int(binary.BigEndian.Uint16(b[2:])),
		stream: binary.BigEndian.Uint32(b[4:]),
	}
	return h, h.check()
}

// shapes tells for each type which channels and payload lengths it may have.
var shapes = [...]struct {
	name           string
	minCh, maxCh   Channel
	minLen, maxLen int
	session        bool // stream number is 0
}{
	frameOpen:    {"OPEN", 0, moreFlag, 1, MaxPayload, false},
	frameData:    {"DATA", Stdin, Stderr, 1, MaxPayload, false},
	frameMessage: {"MESSAGE", Control, Control, 1, MaxMessage, false},
	frameEOF:     {"EOF", Stdin, Stderr, 0, 0, false},
	frameCredit:  {"CREDIT", Stdin, Stderr, creditSize, creditSize, false},
	frameEnd:     {"END", Control, Control, 1, MaxMessage, false},
	frameReset:   {"RESET", Control, Control, 0, MaxMessage, false},
	framePing:    {"PING", Control, Control, pingSize, pingSize, true},
	framePong:    {"PONG", Control, Control, pingSize, pingSize, true},
}

func (t frameType) String() string {
	if t == 0 || int(t) >= len(shapes) {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return shapes[t].name
}

func (h header) check() error {
	if h.typ == 0 || int(h.typ) >= len(shapes) {
		return violation("frame of unknown %s", h.typ)
	}
	s := &shapes[h.typ]
	switch {
	case h.ch < s.minCh || h.ch > s.maxCh:
		return violation("%s on channel %d", s.name, h.ch)
	case h.length < s.minLen || h.length > s.maxLen:
		return violation("%s of %d bytes", s.name, h.length)
	case s.session != (h.stream == 0):
		return violation("%s on stream %d", s.name, h.stream)
	}
	return nil
}

// violation says how the peer broke the protocol.
func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// appendOpen adds the frames of an OPEN. The request is at most MaxRequest.
func appendOpen(b []byte, stream uint32, method Method, request []byte) []byte {
	first := min(len(request), MaxPayload-1-len(method))
	h := header{frameOpen, 0, 1 + len(method) + first, stream}
	if first < len(request) {
		h.ch = moreFlag
	}
	b = append(h.append(b), byte(len(method)))
	b = append(append(b, method...), request[:first]...)
	for request = request[first:]; len(request) > 0; {
		part := request[:min(len(request), MaxPayload)]
		request = request[len(part):]
		var more Channel
		if len(request) > 0 {
			more = moreFlag
		}
		b = appendFrame(b, frameOpen, more, stream, part)
	}
	return b
}

// parseOpen splits the payload of a whole OPEN.
func parseOpen(p []byte) (Method, []byte, error) {
	n := int(p[0])
	if n == 0 || n > maxMethod || len(p) < 1+n {
		return "", nil, violation("OPEN with a method of %d bytes", n)
	}
	return Method(p[1 : 1+n]), p[1+n:], nil
}

// maxMethod is the longest name of a method, in bytes.
const maxMethod = 64
