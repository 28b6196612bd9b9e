//go:build vm

package e2e

import (
	"bufio"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// readLog is all of a machine's log, as text.
func readLog(t *testing.T, h *hosttest.Host, id string, o hyperfleet.LogOptions) string {
	t.Helper()
	log, err := h.MachineLogs(t.Context(), id, o)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	raw, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestLogsFollow(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("logs", image)
	log, err := h.MachineLogs(t.Context(), m.ID, hyperfleet.LogOptions{Follow: true, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	for _, word := range []string{"one", "two", "three"} {
		h.Output(m, "sh", "-c", "echo "+word+" >/dev/console")
		for lines.Scan() && lines.Text() != word {
			t.Logf("between: %s", lines.Text())
		}
		if lines.Text() != word {
			t.Fatalf("the log ended without %q: %v", word, lines.Err())
		}
	}
	if _, err := h.RestartMachine(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	var last string
	for lines.Scan() {
		last = lines.Text()
	}
	if last != "[hyperfleet: machine is stopped]" || lines.Err() != nil {
		t.Errorf("at the restart the log ended with %q, %v", last, lines.Err())
	}
	got := readLog(t, h, m.ID, hyperfleet.LogOptions{})
	for _, want := range []string{"\ntwo\n", "reboot: Restarting system", "[hyperfleet: agent session is up, guest kernel \""} {
		if !strings.Contains(got, want) {
			t.Errorf("the log does not say %q:\n%s", want, got)
		}
	}
	if n := strings.Count(got, "[hyperfleet: machine is running]\n"); n != 2 {
		t.Errorf("the log tells of %d runs", n)
	}
	out, stderr, code := h.CLI("logs", "--source", "agent", "--tail", "1", "logs")
	if code != 0 || out != "[hyperfleet: machine is running]\n" {
		t.Errorf("CLI: %d, %q, %s", code, out, stderr)
	}
}

// The log of a machine whose guest never came up says why, also to a daemon
// that came later.
func TestLogOfAFailedMachine(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Create("panics", image, func(r *hyperfleet.CreateMachineRequest) { r.KernelArgs = "rdinit=/nosuch init=/nosuch" })
	if _, err := h.StartMachine(t.Context(), m.ID); !errors.Is(err, hyperfleet.ErrRuntime) {
		t.Fatalf("start: %v", err)
	}
	for range 2 {
		got := readLog(t, h, m.ID, hyperfleet.LogOptions{Follow: true})
		for _, want := range []string{"[hyperfleet: start]\n", "Kernel panic - not syncing", "[hyperfleet: machine could not be started: "} {
			if !strings.Contains(got, want) {
				t.Errorf("the log does not say %q:\n%s", want, got)
			}
		}
		h.KillDaemon()
		h.StartDaemon()
	}
	if err := h.DeleteMachine(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(h.State + "/machines/*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A guest that floods its console, with a follower that does not read, fills no
// disk and is held up by nobody.
func TestConsoleFlood(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("flood", image)
	log, err := h.MachineLogs(t.Context(), m.ID, hyperfleet.LogOptions{Follow: true, Source: hyperfleet.LogSerial})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// What a UART takes under emulation is some 100 KB/s.
	h.Output(m, "sh", "-c", "(yes 0123456789012345678901234567890123456789012345678901234567890123456789 | dd bs=1k count=1600 >/dev/console 2>/dev/null; echo done >/dev/shm/flood) >/dev/null 2>&1 &")
	hosttest.Await(t, 4*time.Minute, "the flood is over", func() error {
		if res := h.Result(m, "cat", "/dev/shm/flood"); res.ExitCode != 0 {
			return errors.New(res.Stderr)
		}
		return nil
	})
	var kept int64
	files, _ := filepath.Glob(filepath.Join(h.State, "machines", m.ID, "log*"))
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		kept += info.Size()
	}
	t.Logf("%d bytes are kept in %d files", kept, len(files))
	if kept > 2<<20 || len(files) != 2 {
		t.Errorf("%d bytes are kept in %q", kept, files)
	}
	h.Output(m, "sh", "-c", "echo over >/dev/console")
	got := readLog(t, h, m.ID, hyperfleet.LogOptions{Source: hyperfleet.LogSerial, Tail: 3})
	if !strings.HasSuffix(got, "over\n") {
		t.Errorf("the log ends in %q", got)
	}
}
