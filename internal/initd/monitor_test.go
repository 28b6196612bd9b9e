package initd

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The monitor is the only thread that wakes by itself while a goroutine does
// nothing but compute.
func TestMonitorThread(t *testing.T) {
	tid, err := monitorThread("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		before := wakeups(t, tid)
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
		}
		if wakeups(t, tid)-before >= 5 { // it sleeps 10 ms at most
			return
		}
	}
	t.Errorf("thread %d does not wake: it is not the monitor", tid)
}

var voluntary = regexp.MustCompile(`(?m)^voluntary_ctxt_switches:\s*(\d+)`)

// wakeups is how often a thread of this process has gone to sleep.
func wakeups(t *testing.T, tid int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	m := voluntary.FindSubmatch(status)
	if m == nil {
		t.Fatalf("no count of switches in %q", status)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRelaxMonitor(t *testing.T) {
	tid, err := monitorThread("/proc")
	if err != nil {
		t.Fatal(err)
	}
	slack := "/proc/" + strconv.Itoa(tid) + "/timerslack_ns"
	before, err := os.ReadFile(slack)
	if err != nil {
		t.Fatal(err)
	}
	if err := relaxMonitor("/proc"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(slack, before, 0); err != nil {
			t.Error(err)
		}
	})
	b, err := os.ReadFile(slack)
	if got := strings.TrimSpace(string(b)); err != nil || got != strconv.FormatInt(monitorSlack.Nanoseconds(), 10) {
		t.Errorf("slack is %s, %v", got, err)
	}
}
