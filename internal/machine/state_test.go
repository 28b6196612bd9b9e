package machine_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// TestStateTable is the table once more, as the package comment has it.
func TestStateTable(t *testing.T) {
	next := map[machine.State]string{
		machine.Pending:  "starting stopping",
		machine.Starting: "running failed stopped stopping",
		machine.Running:  "paused stopping stopped failed",
		machine.Paused:   "running stopping stopped failed",
		machine.Stopping: "stopped failed",
		machine.Stopped:  "starting stopping",
		machine.Failed:   "starting stopping",
	}
	for _, from := range machine.States() {
		if !from.Valid() {
			t.Errorf("%s is not valid", from)
		}
		for _, to := range machine.States() {
			err := machine.Next(from, to)
			if slices.Contains(strings.Fields(next[from]), string(to)) {
				if err != nil {
					t.Error(err)
				}
				continue
			}
			if !errdefs.Is(err, errdefs.Conflict) || !strings.Contains(err.Error(), string(from)) || !strings.Contains(err.Error(), string(to)) {
				t.Errorf("%s to %s: %v", from, to, err)
			}
		}
	}
	if machine.State("").Valid() || machine.State("flying").Valid() {
		t.Error("an unknown state is valid")
	}
}

func TestID(t *testing.T) {
	seen := map[machine.ID]bool{}
	for range 1000 {
		id := machine.NewID()
		if parsed, err := machine.ParseID(string(id)); err != nil || parsed != id || len(id) != 12 || seen[id] {
			t.Fatalf("id %q: %q, %v", id, parsed, err)
		}
		seen[id] = true
	}
	for _, bad := range []string{"", "..", "a/b", "A", "ä", "a\n", strings.Repeat("a", 41)} {
		if _, err := machine.ParseID(bad); !errdefs.Is(err, errdefs.NotFound) {
			t.Errorf("id %q: %v", bad, err)
		}
	}
}

func TestRegistryAuthRedacts(t *testing.T) {
	auth := machine.RegistryAuth{Username: "u", Password: "p"}
	if auth.String() != "[redacted]" || auth.GoString() != "[redacted]" {
		t.Error("a login prints itself")
	}
}
