// Package guestproto is the wire protocol of the agent session between the
// host and the init of a guest: the handshake, the frames, the multiplexer and
// the messages. docs/guest-protocol.md is its description.
//
// Package guest uses the host's side of it, package initd the guest's side.
// It neither dials nor listens, runs no command and opens no file.
//
// The peer is hostile: every length is bounded, a broken rule ends the session
// with ErrProtocol, and what one session can make us keep in memory has a
// fixed limit. All types are safe for concurrent use unless their comment says
// otherwise. The package imports the standard library only and is kept lean,
// as it is part of the guest's binary.
package guestproto

import "time"

// Where the guest finds the host. The kernel command line names one of the two
// as hyperfleet.agent=serial:NAME or hyperfleet.agent=vsock:PORT.
const (
	// SerialName is the name of the virtio-serial port
	// (/sys/class/virtio-ports/*/name), used under QEMU.
	SerialName = "hyperfleet.agent"
	// VsockPort is the port on CID 2 that the guest dials under Firecracker.
	VsockPort = 1024
)

// Limits that both sides rely on.
const (
	// Version is the protocol version that this package speaks; MinVersion is
	// the oldest that it still understands.
	Version    = 1
	MinVersion = 1

	// HeaderSize is the size of a frame's header in bytes.
	HeaderSize = 8
	// MaxPayload is the most payload that a frame carries, in bytes.
	MaxPayload = 32 << 10
	// MaxRequest is the largest request of a stream, in bytes: an OPEN may
	// span several frames. It holds an argv and environment of Linux's usual
	// size (MAX_ARG_STRLEN is 128 KiB).
	MaxRequest = 1 << 20
	// MaxMessage is the largest control message or result, in bytes.
	MaxMessage = MaxPayload
	// MaxStreams is how many streams may be open at once in one session.
	MaxStreams = 8192
	// MaxMessages is how many control messages may wait on one stream.
	MaxMessages = 16

	// InitialWindow is the credit of each data channel of a new stream, in
	// bytes; Window is what it grows to once the receiver reads.
	InitialWindow = 16 << 10
	Window        = 128 << 10

	// MaxFinished is how many ended commands the guest remembers until the
	// host releases them, and FinishedFor for how long.
	MaxFinished = 4096
	FinishedFor = time.Hour
)

// Channel is one of the flows of a stream. Channel 0 carries the control
// messages and has no io form.
type Channel uint8

// The data channels. Upload and Stdin, and Download and Stdout, are the same.
const (
	Control  Channel = 0 // both ways, small JSON
	Stdin    Channel = 1 // host to guest
	Stdout   Channel = 2 // guest to host
	Stderr   Channel = 3 // guest to host
	Upload           = Stdin
	Download         = Stdout
)
