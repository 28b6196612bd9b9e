package guest

import (
	"context"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

// The ends of commands are gathered, so that they cost one request together,
// and one that does not meet the next command: until there are releaseBatch of
// them, or for releaseDelay.
const (
	releaseDelay = time.Second
	releaseBatch = 64
)

// release has the guest forget an ended command, soon. Ids beyond what a guest
// keeps are left to its own limits.
func (s *Session) release(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.released) < guestproto.MaxFinished {
		s.released = append(s.released, id)
	}
	note(s.tidy)
	if len(s.released) >= releaseBatch {
		note(s.full)
	}
}

func note(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// serve releases commands until the connection breaks.
func (s *Session) serve(conn *guestproto.Conn) {
	for {
		select {
		case <-conn.Done():
			return
		case <-s.tidy:
		}
		select {
		case <-conn.Done():
		case <-s.full:
		case <-time.After(releaseDelay):
		}
		s.flushReleased(conn)
	}
}

func (s *Session) flushReleased(conn *guestproto.Conn) {
	s.mu.Lock()
	ids := s.released
	s.released = nil
	s.mu.Unlock()
	if len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, tidyLimit)
	defer cancel()
	err := roundTrip(ctx, conn, guestproto.MethodExecRelease, &guestproto.ExecRelease{IDs: ids}, nil)
	if err == nil {
		return
	}
	s.log.Debug("release of ended commands", "count", len(ids), "error", err)
	if !isAnswer(err) {
		for _, id := range ids {
			s.release(id)
		}
	}
}
