package hyperfleet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ExecProtocol is the protocol that a streamed exec upgrades its connection
// to. After the server's 101 both sides send frames until the server has sent
// FrameExit or FrameError:
//
//	type (1 byte) | length of the payload (4 bytes, big endian) | payload
//
// The server reads no more of the command's output than ExecWindow bytes beyond
// what the client has acknowledged, so that a client whose connection broke
// can attach again and miss nothing; the client likewise sends no more input
// than ExecWindow bytes beyond what the server has acknowledged.
const ExecProtocol = "hyperfleet-exec"

// Limits of the frames.
const (
	MaxFramePayload = 64 << 10 // bytes
	ExecWindow      = 64 << 10 // bytes that may be unacknowledged, per stream; the guest keeps as many more than its own window
)

// FrameType says what a frame carries.
type FrameType uint8

// Frames of the client.
const (
	FrameStdin      FrameType = 1 // bytes of input
	FrameStdinClose FrameType = 2 // empty: end of input
	FrameSignal     FrameType = 3 // name of a signal, such as "TERM"
	FrameDetach     FrameType = 4 // empty: leave the command running
	FrameAck        FrameType = 5 // ExecOffsets as JSON: output that was consumed
)

// Frames of the server.
const (
	FrameStarted  FrameType = 16 // ExecStarted as JSON, always the first frame
	FrameStdout   FrameType = 17 // bytes of output
	FrameStderr   FrameType = 18 // bytes of output
	FrameStdinAck FrameType = 19 // ExecOffsets as JSON: input that was taken
	FrameExit     FrameType = 20 // ExecResult as JSON, without output; the last frame
	FrameError    FrameType = 21 // ErrorBody as JSON; the last frame
)

// ExecOffsets are positions in a command's streams, in bytes from their start.
type ExecOffsets struct {
	Stdin  int64 `json:"stdin,omitempty" minimum:"0"`
	Stdout int64 `json:"stdout" minimum:"0"`
	Stderr int64 `json:"stderr" minimum:"0"`
}

// ExecStarted is the first frame of a stream. Offsets are those of the first
// byte that follows in each direction.
type ExecStarted struct {
	ExecID string `json:"exec_id"`
	ExecOffsets
}

const frameHeader = 5

// WriteFrame writes one frame with a single Write, so that frames of several
// goroutines that share a locked writer do not mix. The payload must not exceed
// MaxFramePayload.
func WriteFrame(w io.Writer, t FrameType, payload []byte) error {
	if len(payload) > MaxFramePayload {
		return fmt.Errorf("frame of %d bytes: more than %d", len(payload), MaxFramePayload)
	}
	b := make([]byte, frameHeader, frameHeader+len(payload))
	b[0] = byte(t)
	binary.BigEndian.PutUint32(b[1:], uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// ReadFrame reads one frame into buf, which it grows up to MaxFramePayload. The
// payload is valid until buf is used again. It returns io.EOF between two
// frames, and io.ErrUnexpectedEOF inside one.
func ReadFrame(r io.Reader, buf []byte) (FrameType, []byte, error) {
	var h [frameHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(h[1:])
	if n > MaxFramePayload {
		return 0, nil, fmt.Errorf("frame of %d bytes: more than %d", n, MaxFramePayload)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return FrameType(h[0]), buf, nil
}
