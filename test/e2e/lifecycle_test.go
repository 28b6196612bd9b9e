//go:build vm

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// Forty machines, four at a time: under emulation on a busy host, a guest that
// calibrates its clock wrongly hangs, so this many starts are the proof that
// none does.
func TestFortyMachinesStart(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	const machines, atOnce = 40, 4
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range machines {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			m := h.Create(fmt.Sprintf("m%d", i), image)
			if _, err := h.StartMachine(t.Context(), m.ID); err != nil {
				t.Errorf("start %d: %v", i, err)
				return
			}
			want := fmt.Sprintf("m%d\n", i)
			if got := h.Output(m, "echo", fmt.Sprintf("m%d", i)); got != want {
				t.Errorf("machine %d said %q", i, got)
			}
			if err := h.DeleteMachine(t.Context(), m.ID); err != nil {
				t.Errorf("delete %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	h.AssertNothingLeft()
}

func TestStartStopTwentyTimes(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Create("again", image)
	for i := range 20 {
		started, err := h.StartMachine(t.Context(), m.ID)
		if err != nil {
			t.Fatalf("start %d: %v", i, err)
		}
		if started.Status != hyperfleet.StatusRunning || started.PID == nil {
			t.Fatalf("after start %d: status %s, pid %v", i, started.Status, started.PID)
		}
		want := strings.Repeat("x\n", i)
		if got := h.Output(m, "sh", "-c", "touch /root/log; cat /root/log; echo x >>/root/log"); got != want {
			t.Fatalf("start %d: the disk holds %d lines, want %d", i, strings.Count(got, "\n"), i)
		}
		stopped, err := h.StopMachine(t.Context(), m.ID)
		if err != nil {
			t.Fatalf("stop %d: %v", i, err)
		}
		if stopped.Status != hyperfleet.StatusStopped || stopped.PID != nil {
			t.Fatalf("after stop %d: status %s, pid %v", i, stopped.Status, stopped.PID)
		}
		if left := h.VMMs(); len(left) > 0 {
			t.Fatalf("after stop %d: %v", i, left)
		}
	}
}

func TestRestartTwentyTimes(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("restart", image)
	for i := range 20 {
		h.Output(m, "sh", "-c", fmt.Sprintf("echo %d >/root/round", i))
		r, err := h.RestartMachine(t.Context(), m.ID)
		if err != nil {
			t.Fatalf("restart %d: %v", i, err)
		}
		if r.Status != hyperfleet.StatusRunning {
			t.Fatalf("after restart %d: %s", i, r.Status)
		}
		if got := strings.TrimSpace(h.Output(m, "cat", "/root/round")); got != fmt.Sprint(i) {
			t.Fatalf("after restart %d the disk says %q", i, got)
		}
		if n := len(h.VMMs()); n != 1 {
			t.Fatalf("after restart %d: %d VMMs", i, n)
		}
	}
}

func TestMachinesOfOneImageShareNothing(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	a, b := h.Start("a", image), h.Start("b", image)
	h.Output(a, "sh", "-c", "echo secret >/etc/only-a && rm /etc/passwd && sync")
	if res := h.Result(b, "cat", "/etc/only-a"); res.ExitCode == 0 {
		t.Errorf("b sees a's file: %q", res.Stdout)
	}
	h.Output(b, "test", "-s", "/etc/passwd")
	c := h.Start("c", image)
	h.Output(c, "test", "-s", "/etc/passwd")
	if res := h.Result(c, "test", "-e", "/etc/only-a"); res.ExitCode == 0 {
		t.Error("a machine made later sees a's file")
	}
}

// TestSmallGuest runs what guests are for in the least memory that a machine can
// have, with a distribution's kernel and a network.
func TestSmallGuest(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("small", image, func(r *hyperfleet.CreateMachineRequest) { r.MemSizeMiB = 64 })
	if got := h.Output(m, "echo", "small"); got != "small\n" {
		t.Errorf("echo said %q", got)
	}
	content := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	if _, err := h.WriteFile(t.Context(), m.ID, "/root/f", 0o600, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	if got := readFile(t, h, m, "/root/f"); got != content {
		t.Errorf("read %d bytes back, want %d", len(got), len(content))
	}
	if out := h.Output(m, "sh", "-c", "dd if=/dev/zero bs=1M count=20 2>/dev/null | wc -c"); strings.TrimSpace(out) != "20971520" {
		t.Errorf("20 MiB through a pipe: %q", out)
	}
	t.Logf("memory:\n%s", h.Output(m, "grep", "-E", "^(MemTotal|MemAvailable)", "/proc/meminfo"))
	if got := h.Output(m, "ls", "/sys/class/net"); !strings.Contains(got, "eth0") {
		t.Errorf("interfaces are %q", got)
	}
}
