package guestproto

import (
	"container/list"
	"errors"
	"sync"
	"time"
)

// writeLoop writes what is queued. Frames that are queued while a write is at
// work leave together in the next one.
func (c *Conn) writeLoop() {
	for {
		buf, ok := c.nextBuffer()
		if !ok {
			return
		}
		if _, err := c.rwc.Write(buf); err != nil {
			c.fail(err)
			return
		}
		c.mu.Lock()
		c.writing = time.Time{}
		c.written += int64(len(buf))
		if cap(buf) <= 2*sendRoom {
			c.spare = buf[:0]
		}
		c.flushers.wakeAll()
		c.mu.Unlock()
	}
}

// nextBuffer waits for frames that are due and takes them.
func (c *Conn) nextBuffer() ([]byte, bool) {
	for {
		c.mu.Lock()
		if c.err == nil && c.due && len(c.out) > 0 {
			buf := c.out
			c.out, c.spare, c.due = c.spare, nil, false
			c.writing = time.Now()
			c.waiters.wake(1)
			c.mu.Unlock()
			return buf, true
		}
		c.mu.Unlock()
		select {
		case <-c.kick:
		case <-c.done:
			return nil, false
		}
	}
}

// sendLocked makes b, which is c.out with frames appended from mark on, the new
// c.out and has it written.
func (c *Conn) sendLocked(b []byte, mark int) {
	c.queueLocked(b, mark)
	c.kickLocked()
}

func (c *Conn) queueLocked(b []byte, mark int) {
	c.queued += int64(len(b) - mark)
	c.out = b
}

func (c *Conn) kickLocked() {
	if !c.due && len(c.out) > 0 {
		c.due = true
		signal(c.kick)
	}
}

// frameLocked sends one frame.
func (c *Conn) frameLocked(typ frameType, ch Channel, stream uint32, payload []byte) {
	mark := len(c.out)
	c.sendLocked(appendFrame(c.out, typ, ch, stream, payload), mark)
}

// replyLocked sends a frame on behalf of the reading goroutine, which must not
// wait. A peer that provokes replies and does not read them ends the session.
func (c *Conn) replyLocked(typ frameType, stream uint32, payload []byte) error {
	if len(c.out) > sendLimit {
		return violation("more than %d bytes of replies are not read", sendLimit)
	}
	c.frameLocked(typ, Control, stream, payload)
	return nil
}

// waitRoom waits, with mu released, until data may be queued. It fails when the
// session ends, or with why() once cancel is closed. Who leaves with room to
// spare wakes the next: the writer wakes one only.
func (c *Conn) waitRoom(cancel <-chan struct{}, why func() error) error {
	var err error
	for c.err == nil && err == nil && len(c.out) >= sendRoom {
		err = c.waiters.wait(&c.mu, c.done, cancel)
	}
	if len(c.out) < sendRoom {
		c.waiters.wake(1)
	}
	if err != nil {
		return why()
	}
	return c.err
}

// startWatch starts the keep-alive.
func (c *Conn) startWatch() {
	var heard int64
	var silent time.Duration
	var pinged bool
	tick := min(c.cfg.Ping, c.cfg.Idle)
	c.watch = time.AfterFunc(tick, func() {
		now := c.heard.Load()
		if now != heard {
			heard, silent, pinged = now, 0, false
		} else {
			silent += tick
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.err != nil {
			return
		}
		stuck := !c.writing.IsZero() && time.Since(c.writing) >= c.cfg.Idle
		if silent >= c.cfg.Idle || stuck {
			c.failLocked(ErrIdle)
			return
		}
		if silent > 0 && !pinged && len(c.out) < sendRoom {
			var cookie [pingSize]byte
			c.frameLocked(framePing, Control, 0, cookie[:])
			pinged = true
		}
		c.watch.Reset(tick)
	})
}

var errCanceledWait = errors.New("wait canceled")

// waitList is a queue of goroutines that wait for something under a mutex.
// The mutex guards it.
type waitList struct{ l list.List }

// wait releases mu until it is woken, done is closed (nil) or cancel is closed.
// Spurious returns are possible.
func (w *waitList) wait(mu *sync.Mutex, done, cancel <-chan struct{}) error {
	note := make(chan struct{})
	e := w.l.PushBack(note)
	mu.Unlock()
	var err error
	select {
	case <-note:
	case <-done:
	case <-cancel:
		err = errCanceledWait
	}
	mu.Lock()
	w.l.Remove(e) // does nothing when woken
	return err
}

// wake wakes the n that have waited longest.
func (w *waitList) wake(n int) {
	for ; n > 0 && w.l.Len() > 0; n-- {
		close(w.l.Remove(w.l.Front()).(chan struct{}))
	}
}

func (w *waitList) wakeAll() { w.wake(w.l.Len()) }
