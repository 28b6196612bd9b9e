package cli

import (
	"encoding/json"
	"fmt"
	"time"
)

// stopwatch measures the steps of a run.
type stopwatch struct {
	now   func() time.Time
	steps []step
}

type step struct {
	Name    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// do measures f under a name.
func (s *stopwatch) do(name string, f func() error) error {
	began := s.now()
	err := f()
	s.steps = append(s.steps, step{name, s.now().Sub(began).Seconds()})
	return err
}

// print prints a table, with the sum in its last row, to standard error.
func (s *stopwatch) print(g *globals) error {
	var total float64
	for _, st := range s.steps {
		total += st.Seconds
	}
	rows := append(s.steps, step{"total", total})
	if g.output == "json" {
		return json.NewEncoder(g.Stderr).Encode(rows)
	}
	for _, st := range rows {
		fmt.Fprintf(g.Stderr, "%-14s %9.3f s\n", st.Name, st.Seconds)
	}
	return nil
}
