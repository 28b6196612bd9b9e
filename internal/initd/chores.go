package initd

import (
	"sync/atomic"
	"time"
)

// chores is work that no command waits for: it begins late, and is over when the
// guest shuts down.
type chores struct {
	timer   *time.Timer
	stopped atomic.Bool
	done    chan struct{}
}

// after begins do after the delay. do ends early once stopped says so.
func after(delay time.Duration, do func(stopped func() bool)) *chores {
	c := &chores{done: make(chan struct{})}
	c.timer = time.AfterFunc(delay, func() {
		defer close(c.done)
		do(c.stopped.Load)
	})
	return c
}

// stop keeps the work from beginning, or waits for its end. It is idempotent.
func (c *chores) stop() {
	c.stopped.Store(true)
	if c.timer.Stop() {
		close(c.done)
	}
	<-c.done
}
