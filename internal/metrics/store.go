package metrics

import (
	"context"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Store returns s with its calls measured.
func (m *Metrics) Store(s machine.Store) machine.Store { return measured{s, m} }

// measured is a machine.Store whose transactions are timed.
type measured struct {
	machine.Store
	m *Metrics
}

// timed is deferred with the time at which the call began.
func (s measured) timed(operation string, began time.Time) {
	s.m.storeSeconds.WithLabelValues(operation).Observe(time.Since(began).Seconds())
}

// CreateMachine implements machine.Store.
func (s measured) CreateMachine(ctx context.Context, mc *machine.Machine) error {
	defer s.timed("create_machine", time.Now())
	return s.Store.CreateMachine(ctx, mc)
}

// Machine implements machine.Store.
func (s measured) Machine(ctx context.Context, id machine.ID) (machine.Machine, error) {
	defer s.timed("read_machine", time.Now())
	return s.Store.Machine(ctx, id)
}

// Machines implements machine.Store.
func (s measured) Machines(ctx context.Context, f machine.Filter) ([]machine.Machine, int, error) {
	defer s.timed("list_machines", time.Now())
	return s.Store.Machines(ctx, f)
}

// UpdateMachine implements machine.Store.
func (s measured) UpdateMachine(ctx context.Context, mc machine.Machine) error {
	defer s.timed("update_machine", time.Now())
	return s.Store.UpdateMachine(ctx, mc)
}

// DeleteMachine implements machine.Store.
func (s measured) DeleteMachine(ctx context.Context, id machine.ID) error {
	defer s.timed("delete_machine", time.Now())
	return s.Store.DeleteMachine(ctx, id)
}

// SaveOperation implements machine.Store.
func (s measured) SaveOperation(ctx context.Context, op machine.OperationRecord) error {
	defer s.timed("save_operation", time.Now())
	return s.Store.SaveOperation(ctx, op)
}
