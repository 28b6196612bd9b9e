package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/pressly/goose/v3"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// TestMigrateCountsWhatIsThere brings a database of the first schema, with gaps
// between its slots, up to date.
func TestMigrateCountsWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	old := oldDatabase(t, path, 1)
	for slot, state := range map[int]machine.State{2: machine.Running, 3: machine.Stopped, 5: machine.Running} {
		_, err := old.ExecContext(t.Context(), `INSERT INTO machines (id, host_id, name, spec, state, slot, created_at, updated_at)
			VALUES (?, 'h', 'n', '{}', ?, ?, 1, 1)`, fmt.Sprint("old", slot), state, slot)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, path)
	for _, want := range []int{1, 4, 6} {
		m := newMachine(machine.ID(fmt.Sprint("new", want)))
		if err := s.CreateMachine(t.Context(), m); err != nil || m.Slot != want {
			t.Errorf("slot %d, the smallest free one is %d (%v)", m.Slot, want, err)
		}
	}
	for state, want := range map[machine.State]int{"": 6, machine.Running: 2, machine.Stopped: 1, machine.Failed: 0} {
		list, total, err := s.Machines(t.Context(), machine.Filter{State: state})
		if err != nil || total != want || len(list) != want {
			t.Errorf("state %q: %d listed, %d counted, want %d (%v)", state, len(list), total, want, err)
		}
	}
}

// oldDatabase makes a database of an earlier schema.
func oldDatabase(t *testing.T, path string, version int64) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, os.DirFS("migrations"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return db
}

// TestCountsFollowEveryChange compares the counts that triggers keep with the
// rows, after inserts, changes of state and deletes.
func TestCountsFollowEveryChange(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	states := machine.States()
	for i := range 60 {
		m := newMachine(machine.ID(fmt.Sprint("m", i)))
		if err := s.CreateMachine(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		for j := range i % 4 {
			m.State = states[(i*7+j*3)%len(states)]
			if err := s.UpdateMachine(t.Context(), *m); err != nil {
				t.Fatal(err)
			}
		}
		if i%3 == 0 {
			if err := s.DeleteMachine(t.Context(), m.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, state := range append(states, "") {
		list, total, err := s.Machines(t.Context(), machine.Filter{State: state})
		if err != nil || len(list) != total {
			t.Errorf("state %q: %d listed, %d counted (%v)", state, len(list), total, err)
		}
	}
}
