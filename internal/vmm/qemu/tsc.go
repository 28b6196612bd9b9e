package qemu

import (
	"context"
	"sync"
	"time"
)

// tscWindow is how long the TSC is measured against the clock. Each end is
// read to well under a microsecond, so the result is good to some parts per
// million, which is what the guest's clock then drifts by.
const tscWindow = 100 * time.Millisecond

// tscClock measures the frequency of this host's time stamp counter, at which
// the TSC of a TCG guest ticks. The guest must be told: its own calibration
// against the PIT fails on a busy host, and it then hangs.
type tscClock struct {
	start tscSample

	mu  sync.Mutex
	khz uint32 // 0 until measured
}

type tscSample struct {
	ticks uint64
	at    time.Time
}

func startTSCClock() *tscClock { return &tscClock{start: sampleTSC()} }

// kHz returns the frequency, measured once over at least tscWindow since the
// clock was started. It is 0 where there is no TSC.
func (c *tscClock) kHz(ctx context.Context) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.khz != 0 || c.start.ticks == 0 {
		return c.khz, nil
	}
	if wait := tscWindow - time.Since(c.start.at); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	end := sampleTSC()
	// kHz is ticks per millisecond.
	elapsed := end.at.Sub(c.start.at)
	c.khz = uint32(float64(end.ticks-c.start.ticks)*float64(time.Millisecond)/float64(elapsed) + 0.5)
	return c.khz, nil
}

// sampleTSC reads the TSC between two readings of the clock and keeps the
// tightest of several tries: a reading that was interrupted is a wrong one.
func sampleTSC() tscSample {
	var best tscSample
	tightest := time.Duration(1<<63 - 1)
	for range 16 {
		before := time.Now()
		ticks := readTSC()
		if gap := time.Since(before); gap < tightest {
			tightest = gap
			best = tscSample{ticks: ticks, at: before.Add(gap / 2)}
		}
	}
	return best
}
