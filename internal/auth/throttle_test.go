package auth

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fail is how long a failure of addr waits.
func fail(t *testing.T, th *Throttle, addr string) time.Duration {
	t.Helper()
	began := time.Now()
	if !th.Fail(t.Context(), netip.MustParseAddr(addr)) {
		t.Errorf("%s is sent away", addr)
	}
	return time.Since(began)
}

func TestThrottleSlowsOneAddressAndForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		th := NewThrottle(slog.New(slog.NewTextHandler(&log, nil)))
		for range FreeFailures {
			if d := fail(t, th, "192.0.2.1"); d != 0 {
				t.Errorf("one of the free waits %v", d)
			}
		}
		var last time.Duration
		for range 20 {
			d := fail(t, th, "192.0.2.1")
			if d < last && d < longestWait || d > longestWait || d == 0 {
				t.Errorf("waits %v after %v", d, last)
			}
			last = d
		}
		if last != longestWait {
			t.Errorf("the last waits %v, want %v", last, longestWait)
		}
		if d := fail(t, th, "192.0.2.2"); d != 0 {
			t.Errorf("another address waits %v", d)
		}
		if n := strings.Count(log.String(), "192.0.2.1/32"); n != 1 {
			t.Errorf("told %d times:\n%s", n, log.String())
		}
		time.Sleep(mostFailures * forgetOne)
		if d := fail(t, th, "192.0.2.1"); d != 0 {
			t.Errorf("nothing is forgotten: %v", d)
		}
	})
}

func TestThrottleCountsNetworks(t *testing.T) {
	for _, c := range []struct{ a, b string }{
		{"2001:db8::1", "2001:db8::ffff:1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"fe80::1%eth0", "fe80::2%eth1"},
	} {
		if network(netip.MustParseAddr(c.a)) != network(netip.MustParseAddr(c.b)) {
			t.Errorf("%s and %s count apart", c.a, c.b)
		}
	}
	if network(netip.MustParseAddr("2001:db8:0:1::1")) == network(netip.MustParseAddr("2001:db8:0:2::1")) {
		t.Error("two networks count as one")
	}
	network(netip.Addr{})
}

// Few wait at a time, others are sent away at once, and a caller that leaves
// waits no longer.
func TestThrottleBoundsItsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := NewThrottle(slog.New(slog.DiscardHandler))
		addr := netip.MustParseAddr("192.0.2.1")
		for range FreeFailures {
			th.Fail(t.Context(), addr)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range waitersOfOne {
			wg.Go(func() {
				if !th.Fail(ctx, addr) {
					t.Error("one of few is sent away")
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if th.Fail(ctx, addr) || time.Since(began) != 0 {
			t.Error("one too many waits")
		}
		cancel()
		wg.Wait()
		if time.Since(began) != 0 || th.waiting != 0 {
			t.Errorf("%d wait, %v after their callers left", th.waiting, time.Since(began))
		}
	})
}

func TestThrottleTableIsBounded(t *testing.T) {
	th := NewThrottle(slog.New(slog.DiscardHandler))
	for i := range addressesKept + 100 {
		th.Fail(t.Context(), netip.MustParseAddr(fmt.Sprintf("10.0.%d.%d", i/256, i%256)))
	}
	if len(th.table) != addressesKept || th.order.Len() != addressesKept {
		t.Errorf("%d addresses are kept", len(th.table))
	}
	if _, ok := th.table[netip.MustParsePrefix("10.0.0.0/32")]; ok {
		t.Error("the oldest is kept")
	}
}
