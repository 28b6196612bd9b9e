package guestproto

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
)

// maxCredit is the most credit that a sender may have on a channel, in bytes.
const maxCredit = 16 << 20

// readLoop takes frames from the connection until it breaks.
func (c *Conn) readLoop() {
	for {
		if err := c.readFrame(); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			c.fail(err)
			return
		}
	}
}

// readFrame takes one frame. The payload is not copied before it is known to
// be allowed.
func (c *Conn) readFrame() error {
	b, err := c.br.Peek(HeaderSize)
	if err != nil {
		return err
	}
	h, err := parseHeader(b)
	if err != nil {
		return err
	}
	b, err = c.br.Peek(HeaderSize + h.length)
	if err != nil {
		return err
	}
	c.heard.Add(int64(len(b)))
	if err := c.handle(h, b[HeaderSize:]); err != nil {
		return err
	}
	_, err = c.br.Discard(len(b))
	return err
}

// handle acts on one frame. The payload is valid during the call only.
func (c *Conn) handle(h header, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if c.partial != nil && (h.typ != frameOpen || h.stream != c.last) {
		return violation("%s inside an OPEN", h.typ)
	}
	switch h.typ {
	case frameOpen:
		return c.handleOpen(h, payload)
	case framePing:
		return c.replyLocked(framePong, 0, payload)
	case framePong:
		return nil
	}
	if h.stream > c.last {
		return violation("%s for stream %d, which was never opened", h.typ, h.stream)
	}
	s := c.streams[h.stream]
	if s == nil {
		return nil // it crossed with the end of the stream
	}
	switch h.typ {
	case frameData:
		return s.handleData(h.ch, payload)
	case frameMessage:
		return s.handleMessage(payload)
	case frameEOF:
		return s.handleEOF(h.ch)
	case frameCredit:
		return s.handleCredit(h.ch, payload)
	case frameEnd:
		return s.handleEnd(payload)
	default: // frameReset: parseHeader lets no other type through
		return s.handleReset(payload)
	}
}

func (c *Conn) handleOpen(h header, payload []byte) error {
	if c.host {
		return violation("the guest opened a stream")
	}
	if c.partial == nil {
		if h.stream != c.last+1 {
			return violation("OPEN of stream %d after %d", h.stream, c.last)
		}
		c.last = h.stream
	}
	if len(c.partial)+len(payload) > MaxRequest+1+maxMethod {
		return violation("request is larger than %d bytes", MaxRequest)
	}
	whole := payload
	if c.partial != nil || h.ch == moreFlag {
		c.partial = append(c.partial, payload...)
		if h.ch == moreFlag {
			return nil
		}
		whole, c.partial = c.partial, nil
	}
	method, request, err := parseOpen(whole)
	if err != nil {
		return err
	}
	if c.places >= MaxStreams+spareStreams || c.held+len(request) > heldLimit {
		return c.replyLocked(frameReset, h.stream, refusedPayload)
	}
	s := newStream(c, h.stream, method)
	s.request = append([]byte(nil), request...)
	c.held += len(request)
	c.streams[s.id] = s
	c.places++
	c.backlog = append(c.backlog, s)
	signal(c.arrived)
	return nil
}

// outgoing tells which data channels this side sends on.
func (c *Conn) outgoing(ch Channel) bool { return c.host == (ch == Stdin) }

func (s *Stream) handleData(ch Channel, p []byte) error {
	if s.conn.outgoing(ch) {
		return violation("DATA against the direction of channel %d", ch)
	}
	return s.recv[ch].put(p)
}

func (s *Stream) handleEOF(ch Channel) error {
	if s.conn.outgoing(ch) || s.recv[ch].eof {
		return violation("EOF on channel %d", ch)
	}
	s.recv[ch].eof = true
	signal(s.recv[ch].notify)
	return nil
}

func (s *Stream) handleCredit(ch Channel, p []byte) error {
	n := int64(binary.BigEndian.Uint32(p))
	if !s.conn.outgoing(ch) || n == 0 || s.send[ch].credit+n > maxCredit {
		return violation("CREDIT of %d on channel %d", n, ch)
	}
	s.send[ch].credit += n
	signal(s.send[ch].notify)
	return nil
}

func (s *Stream) handleMessage(p []byte) error {
	if len(s.messages) >= MaxMessages {
		return violation("more than %d messages wait", MaxMessages)
	}
	if err := s.conn.hold(len(p)); err != nil {
		return err
	}
	s.messages = append(s.messages, append(json.RawMessage(nil), p...))
	signal(s.mail)
	return nil
}

func (s *Stream) handleEnd(p []byte) error {
	if !s.conn.host {
		return violation("END from the host")
	}
	if err := s.conn.hold(len(p)); err != nil {
		return err
	}
	s.result = append(json.RawMessage(nil), p...)
	s.overLocked(ErrEnded)
	return nil
}

func (s *Stream) handleReset(p []byte) error {
	s.overLocked(parseError(p))
	return nil
}

// hold counts bytes that wait to be decoded.
func (c *Conn) hold(n int) error {
	if c.held+n > heldLimit {
		return violation("more than %d bytes of messages wait", heldLimit)
	}
	c.held += n
	return nil
}
