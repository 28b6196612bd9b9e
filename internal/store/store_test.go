package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/idempotency/idempotencytest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
	"github.com/hyperfleet/hyperfleet/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustOpen(t testing.TB, path string) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newMachine(id machine.ID) *machine.Machine {
	return &machine.Machine{ID: id, Spec: machine.Spec{Name: string(id)}, State: machine.Pending, CreatedAt: time.Now(), UpdatedAt: time.Now()}
}

func mustInsert(t testing.TB, s *store.Store, id machine.ID) {
	t.Helper()
	if err := s.CreateMachine(context.Background(), newMachine(id)); err != nil {
		t.Fatal(err)
	}
}

func TestStoreConformance(t *testing.T) {
	machinetest.TestStore(t, func(t *testing.T) machine.Store {
		return mustOpen(t, filepath.Join(t.TempDir(), "odd name ?#%41.db"))
	})
}

func TestIdempotencyConformance(t *testing.T) {
	idempotencytest.TestStore(t, func(t *testing.T) idempotency.Store {
		return mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	})
}

func TestStoreFilesAreOurs(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, filepath.Join(dir, "test.db"))
	mustInsert(t, s, "a")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 2 {
		t.Fatalf("files %v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
}

func TestStoreReopens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := mustOpen(t, path)
	mustInsert(t, s, "a")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path)
	if m, err := s.Machine(t.Context(), "a"); err != nil || m.Slot != 1 {
		t.Fatalf("after reopen: %+v, %v", m, err)
	}
}

// TestStoreSurvivesKill copies the files as a kill leaves them, at any moment
// of a stream of writes: everything that had returned by then is in the copy.
func TestStoreSurvivesKill(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, filepath.Join(dir, "test.db"))
	for round := range 5 {
		for i := range 20 {
			mustInsert(t, s, machine.ID(fmt.Sprintf("r%dm%d", round, i)))
		}
		dead := t.TempDir()
		for _, name := range []string{"test.db", "test.db-wal"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if name == "test.db-wal" { // and a write that was under way
				b = append(b, b[len(b)-2000:]...)
			}
			if err := os.WriteFile(filepath.Join(dead, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, total, err := mustOpen(t, filepath.Join(dead, "test.db")).Machines(t.Context(), machine.Filter{})
		if err != nil || total != 20*(round+1) {
			t.Fatalf("round %d: %d machines, %v", round, total, err)
		}
	}
}

func TestStoreReadsWhileWriting(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 25 {
				id := machine.ID(fmt.Sprintf("w%dm%d", w, i))
				if err := s.CreateMachine(t.Context(), newMachine(id)); err != nil {
					t.Error(err)
				}
				if _, err := s.Machine(t.Context(), id); err != nil {
					t.Errorf("own write is not seen: %v", err)
				}
				if _, _, err := s.Machines(t.Context(), machine.Filter{Limit: 5}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func requireCode(t *testing.T, path, code string) {
	t.Helper()
	s, err := store.Open(t.Context(), path)
	if err == nil {
		s.Close()
		t.Fatalf("open succeeded, want %s", code)
	}
	if errdefs.CodeOf(err) != code {
		t.Fatalf("error %v has code %s, want %s", err, errdefs.CodeOf(err), code)
	}
}

func TestOpenCorrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	if err := os.WriteFile(path, bytes.Repeat([]byte("not a database. "), 512), 0o600); err != nil {
		t.Fatal(err)
	}
	requireCode(t, path, "DATABASE_CORRUPT")
}

func TestReadDamagedPage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	s := mustOpen(t, path)
	for i := range 50 {
		mustInsert(t, s, machine.ID(fmt.Sprint("m", i)))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Page 1 holds the header and the schema; all behind it is damaged.
	copy(b[4096:], bytes.Repeat([]byte{0xff}, len(b)-4096))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	requireCode(t, path, "DATABASE_CORRUPT")
}

func TestOpenNewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	if err := mustOpen(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)"); err != nil {
		t.Fatal(err)
	}
	requireCode(t, path, "DATABASE_TOO_NEW")
}

func TestOpenWithoutFolder(t *testing.T) {
	_, err := store.Open(t.Context(), filepath.Join(t.TempDir(), "nosuch", "test.db"))
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("error %v", err)
	}
}

func BenchmarkSaveOperation(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "test.db"))
	mustInsert(b, s, "a")
	op := machine.OperationRecord{ID: "o", MachineID: "a", Kind: "start", StartedAt: time.Now()}
	for range 10 {
		op.Steps = append(op.Steps, machine.StepRecord{Name: "step", State: "done", StartedAt: time.Now()})
	}
	for b.Loop() {
		if err := s.SaveOperation(b.Context(), op); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMachine(b *testing.B) {
	s := mustOpen(b, filepath.Join(b.TempDir(), "test.db"))
	mustInsert(b, s, "a")
	for b.Loop() {
		if _, err := s.Machine(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestStoreCounts(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	if counts, err := s.CountMachines(t.Context()); err != nil || len(counts) != 0 {
		t.Errorf("empty: %v, %v", counts, err)
	}
	for _, id := range []machine.ID{"a", "b", "c"} {
		mustInsert(t, s, id)
	}
	m := *newMachine("b")
	m.State = machine.Running
	if err := s.UpdateMachine(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMachine(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	counts, err := s.CountMachines(t.Context())
	if err != nil || counts[machine.Pending] != 1 || counts[machine.Running] != 1 {
		t.Errorf("%v, %v", counts, err)
	}
}
