package vmmtest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// leaves releases cfg at the end of the test and then finds nothing of it: no
// process of its user, no file in its folder, no socket.
func leaves(t *testing.T, driver machine.Driver, cfg machine.VMConfig) {
	t.Helper()
	t.Cleanup(func() {
		for range 2 {
			if err := driver.Release(background(), cfg); err != nil {
				t.Errorf("release: %v", err)
			}
		}
		nothingLeft(t, cfg)
	})
}

// keepsDescriptors finds no more descriptors open at the end of the test than
// there are now.
func keepsDescriptors(t *testing.T) {
	t.Helper()
	before := descriptors(t)
	t.Cleanup(func() {
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors are open, %d were", after, before)
		}
	})
}

func nothingLeft(t *testing.T, cfg machine.VMConfig) {
	t.Helper()
	if left := processesOf(t, cfg.UID); len(left) > 0 {
		t.Errorf("processes are left: %v", left)
	}
	if _, err := os.Lstat(cfg.RunDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the run directory is left: %v", err)
	}
	sockets, err := os.ReadFile("/proc/net/unix")
	must(t, err)
	if strings.Contains(string(sockets), string(cfg.ID)) {
		t.Error("a socket is left")
	}
}

// descriptors counts our open descriptors, but for the one that counts.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names) - 1
}

// processesOf lists the processes whose user is uid, also those that have ended
// and that we should have reaped.
func processesOf(t *testing.T, uid int) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/status")
	must(t, err)
	var pids []int
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it ended meanwhile
		}
		lines := strings.Split(string(b), "\n")
		zombie := slices.Contains(lines, "State:\tZ (zombie)")
		ours := slices.Contains(lines, "PPid:\t"+strconv.Itoa(os.Getpid()))
		if slices.Contains(lines, uidLine(uid)) && (!zombie || ours) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// uidLine is what /proc/PID/status says of a process with one user id.
func uidLine(uid int) string {
	s := strconv.Itoa(uid)
	return "Uid:\t" + s + "\t" + s + "\t" + s + "\t" + s
}

// requireCode makes sure that err has a kind's code, which callers compare.
func requireCode(t *testing.T, err error, code string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %s", code)
	}
	if got := errdefs.CodeOf(err); got != code {
		t.Fatalf("error %v has code %s, want %s", err, got, code)
	}
}
