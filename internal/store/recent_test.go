package store_test

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// TestReadsNeverGoBack has readers of one machine beside its writer: what a
// write has returned is what every later read sees, whether it comes from
// memory or from the file.
func TestReadsNeverGoBack(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	mustInsert(t, s, "a")
	m, err := s.Machine(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var written time.Time
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				mu.Lock()
				least := written
				mu.Unlock()
				got, err := s.Machine(t.Context(), "a")
				if err != nil || got.UpdatedAt.Before(least) {
					t.Errorf("read %v after %v was written (%v)", got.UpdatedAt, least, err)
					return
				}
			}
		})
	}
	for range 200 {
		m.UpdatedAt = m.UpdatedAt.Add(time.Second)
		if err := s.UpdateMachine(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		written = m.UpdatedAt
		mu.Unlock()
	}
	close(done)
	wg.Wait()
	if err := s.DeleteMachine(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Machine(t.Context(), "a"); !errdefs.Is(err, errdefs.NotFound) {
		t.Errorf("a deleted machine: %v", err)
	}
}

// What a caller does to its machine is no matter of the next one's.
func TestReadsAreCopies(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	mustInsert(t, s, "a")
	for range 2 {
		m, err := s.Machine(t.Context(), "a")
		if err != nil || m.State != machine.Pending {
			t.Fatalf("read: %+v, %v", m, err)
		}
		m.State = machine.Failed
	}
}
