package machine_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// logOf is the machine's log, one line for each entry.
func logOf(t *testing.T, m *machine.Manager, id machine.ID, source string) string {
	t.Helper()
	r, err := m.Logs(t.Context(), id, machine.LogRequest{Source: source, Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b strings.Builder
	for {
		e, err := r.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return b.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(e.Line, '\n'))
	}
}

// The log outlives runs and daemons, and says what is not in it.
func TestLogGoesOn(t *testing.T) {
	h := machinetest.NewHost(t)
	first := h.Daemon(t)
	m := newManager(t, first)
	id := started(t, m)
	first.Crash()
	h.Say(id, "nobody listens\n")
	second := newManager(t, h.Daemon(t))
	h.Say(id, "back\n")
	if _, err := second.Stop(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	got := logOf(t, second, id, "")
	for _, want := range []string{"booting\n", "machine is running\na new daemon takes the machine over", "back\n", "reboot: Restarting system\nmachine is stopped\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log does not say %q:\n%s", want, got)
		}
	}
	c, err := second.Console(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if raw, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(raw), "booting\n") || strings.Contains(string(raw), "daemon") {
		t.Errorf("the console's record is %q, %v", raw, err)
	}
}

func TestLogsRefuse(t *testing.T) {
	m := newManager(t, machinetest.NewHost(t).Daemon(t))
	id := mustCreate(t, m, spec("x")).ID
	if got := logOf(t, m, id, "all"); got != "" {
		t.Errorf("a machine that never ran has said %q", got)
	}
	_, err := m.Logs(t.Context(), id, machine.LogRequest{Source: "both"})
	requireKind(t, err, errdefs.Invalid, "VALIDATION_ERROR")
	_, err = m.Logs(t.Context(), "nosuch", machine.LogRequest{})
	requireKind(t, err, errdefs.NotFound, "NOT_FOUND")
	_, err = m.Console(t.Context(), "nosuch")
	requireKind(t, err, errdefs.NotFound, "NOT_FOUND")
}

// A log that cannot be written keeps no machine from running.
func TestLogThatCannotBeWritten(t *testing.T) {
	h := machinetest.NewHost(t)
	dir := ""
	m := newManager(t, h.Daemon(t), func(c *machine.Config) { dir = c.StateDir })
	id := mustCreate(t, m, spec("x")).ID
	if err := os.MkdirAll(filepath.Join(dir, "machines", string(id), "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Start(t.Context(), id); err != nil {
		t.Fatalf("start: %v", err)
	}
	h.Say(id, "nobody writes it down\n")
	if err := m.Delete(t.Context(), id); err != nil {
		t.Errorf("delete: %v", err)
	}
	requireClean(t, h)
}
