package initd

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"time"
)

// monitorSlack is by how much the wake-ups of the runtime's monitor may be late.
//
// While anything runs, the monitor (runtime.sysmon) wakes every 20 us for the
// first millisecond and more rarely then. On one emulated vCPU each of that is
// an interrupt and two switches of threads: together half of what a command's
// start costs. What the monitor does, taking processors from goroutines that
// block in system calls and preempting those that compute, is soon enough so.
const monitorSlack = 4 * time.Millisecond

// relaxMonitor lets the timers of the runtime's monitor be late (proc(5),
// /proc/PID/timerslack_ns). proc is where /proc is mounted.
func relaxMonitor(proc string) error {
	tid, err := monitorThread(proc)
	if err != nil {
		return fmt.Errorf("find the runtime's monitor: %w", err)
	}
	slack := strconv.FormatInt(monitorSlack.Nanoseconds(), 10)
	return os.WriteFile(proc+"/"+strconv.Itoa(tid)+"/timerslack_ns", []byte(slack), 0)
}

// monitorThread returns the thread of the runtime's monitor, which is the first
// that the runtime starts (runtime.main). Of the wrong thread being taken
// nothing worse would come than timers of that being late.
func monitorThread(proc string) (int, error) {
	entries, err := os.ReadDir(proc + "/self/task")
	if err != nil {
		return 0, err
	}
	var tids []int
	for _, e := range entries {
		if tid, err := strconv.Atoi(e.Name()); err == nil {
			tids = append(tids, tid)
		}
	}
	slices.Sort(tids)
	if len(tids) < 2 {
		return 0, fs.ErrNotExist
	}
	return tids[1], nil
}
