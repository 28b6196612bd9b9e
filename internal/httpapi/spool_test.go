package httpapi

import (
	"bytes"
	"errors"
	"math"
	"sync/atomic"
	"testing"
)

// All spools together have a limit, which a closed one gives back.
func TestSpoolsShareTheDisk(t *testing.T) {
	all := newSpools(t.TempDir(), spoolMemory/spoolsAtLimit*2) // two of just more than memory do not fit
	var budget atomic.Int64
	budget.Store(math.MaxInt64)
	chunk := bytes.Repeat([]byte("x"), spoolMemory)
	fill := func(s *spool) error {
		for _, p := range [][]byte{chunk, []byte("y")} {
			if _, err := s.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
	first, second := all.open(&budget), all.open(&budget)
	if err := fill(first); err != nil {
		t.Fatal(err)
	}
	if err := fill(second); !errors.Is(err, errSpoolsFull) {
		t.Errorf("the second: %v", err)
	}
	second.close()
	first.close()
	third := all.open(&budget)
	defer third.close()
	if err := fill(third); err != nil {
		t.Errorf("after the others: %v", err)
	}
	first.close() // gives nothing back twice
	if got, want := all.left.Load(), int64(2*spoolMemory-spoolMemory-1); got != want {
		t.Errorf("%d bytes left, want %d", got, want)
	}
}
