package machinetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Store is a machine.Store in memory. Values go in and out by JSON, so that
// nothing is shared with callers.
type Store struct {
	mu       sync.Mutex
	order    []machine.ID // of creation
	machines map[machine.ID][]byte
	opOrder  []string
	ops      map[string]machine.OperationRecord
}

// NewStore returns an empty Store.
func NewStore() *Store {
	return &Store{machines: map[machine.ID][]byte{}, ops: map[string]machine.OperationRecord{}}
}

// CreateMachine implements machine.Store.
func (s *Store) CreateMachine(ctx context.Context, m *machine.Machine) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.machines[m.ID]; ok {
		return errdefs.New(errdefs.Conflict, "MACHINE_EXISTS", "machine %s exists", m.ID)
	}
	taken := map[int]bool{}
	for id := range s.machines {
		taken[s.decode(id).Slot] = true
	}
	m.Slot = 1
	for taken[m.Slot] {
		m.Slot++
	}
	s.order = append(s.order, m.ID)
	return s.put(*m)
}

// Machine implements machine.Store.
func (s *Store) Machine(_ context.Context, id machine.ID) (machine.Machine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.machines[id]; !ok {
		return machine.Machine{}, machine.NotFoundError(id)
	}
	return s.decode(id), nil
}

// Machines implements machine.Store.
func (s *Store) Machines(_ context.Context, f machine.Filter) ([]machine.Machine, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []machine.Machine{}
	for _, id := range slices.Backward(s.order) {
		if m := s.decode(id); f.State == "" || m.State == f.State {
			list = append(list, m)
		}
	}
	total := len(list)
	list = list[min(max(f.Offset, 0), total):]
	if f.Limit > 0 {
		list = list[:min(f.Limit, len(list))]
	}
	return list, total, nil
}

// UpdateMachine implements machine.Store.
func (s *Store) UpdateMachine(_ context.Context, m machine.Machine) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.machines[m.ID]; !ok {
		return machine.NotFoundError(m.ID)
	}
	old := s.decode(m.ID)
	m.Owner, m.Spec, m.Slot, m.CreatedAt = old.Owner, old.Spec, old.Slot, old.CreatedAt
	return s.put(m)
}

// DeleteMachine implements machine.Store.
func (s *Store) DeleteMachine(_ context.Context, id machine.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.machines[id]; !ok {
		return machine.NotFoundError(id)
	}
	delete(s.machines, id)
	s.order = slices.DeleteFunc(s.order, func(o machine.ID) bool { return o == id })
	s.opOrder = slices.DeleteFunc(s.opOrder, func(o string) bool { return s.ops[o].MachineID == id })
	maps.DeleteFunc(s.ops, func(_ string, op machine.OperationRecord) bool { return op.MachineID == id })
	return nil
}

// SaveOperation implements machine.Store.
func (s *Store) SaveOperation(_ context.Context, op machine.OperationRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.machines[op.MachineID]; !ok {
		return machine.NotFoundError(op.MachineID)
	}
	if _, ok := s.ops[op.ID]; !ok {
		s.opOrder = append(s.opOrder, op.ID)
	}
	op.Steps = slices.Clone(op.Steps)
	s.ops[op.ID] = op
	s.dropOld(op.MachineID)
	return nil
}

// dropOld keeps the latest finished operations of a machine.
func (s *Store) dropOld(id machine.ID) {
	kept := 0
	for _, opID := range slices.Backward(slices.Clone(s.opOrder)) {
		op := s.ops[opID]
		if op.MachineID != id || op.Outcome == "" {
			continue
		}
		if kept++; kept > machine.KeepOperations {
			delete(s.ops, opID)
			s.opOrder = slices.DeleteFunc(s.opOrder, func(o string) bool { return o == opID })
		}
	}
}

// UnfinishedOperations implements machine.Store.
func (s *Store) UnfinishedOperations(context.Context) ([]machine.OperationRecord, error) {
	return s.operations(func(op machine.OperationRecord) bool { return op.Outcome == "" }), nil
}

// Operations implements machine.Store.
func (s *Store) Operations(_ context.Context, id machine.ID, limit int) ([]machine.OperationRecord, error) {
	list := s.operations(func(op machine.OperationRecord) bool { return op.MachineID == id })
	slices.Reverse(list)
	if limit > 0 {
		list = list[:min(limit, len(list))]
	}
	return list, nil
}

func (s *Store) operations(want func(machine.OperationRecord) bool) []machine.OperationRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []machine.OperationRecord{}
	for _, id := range s.opOrder {
		if op := s.ops[id]; want(op) {
			op.Steps = slices.Clone(op.Steps)
			list = append(list, op)
		}
	}
	return list
}

func (s *Store) put(m machine.Machine) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode machine: %w", err)
	}
	s.machines[m.ID] = b
	return nil
}

func (s *Store) decode(id machine.ID) (m machine.Machine) {
	if err := json.Unmarshal(s.machines[id], &m); err != nil {
		panic(err) // we encoded it
	}
	return m
}

func (s *Store) snapshot() map[machine.ID]machine.Machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[machine.ID]machine.Machine, len(s.machines))
	for id := range s.machines {
		all[id] = s.decode(id)
	}
	return all
}

func (s *Store) holds(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.machines {
		if bytes.Contains(b, []byte(text)) {
			return true
		}
	}
	return strings.Contains(fmt.Sprint(s.ops), text)
}

// storeView is the Store as one daemon sees it.
type storeView struct{ d *Daemon }

func (v storeView) CreateMachine(ctx context.Context, m *machine.Machine) error {
	return v.d.call("store.CreateMachine", func() error { return v.d.host.Store.CreateMachine(ctx, m) })
}

func (v storeView) Machine(ctx context.Context, id machine.ID) (m machine.Machine, err error) {
	err = v.d.call("store.Machine", func() (err error) {
		m, err = v.d.host.Store.Machine(ctx, id)
		return err
	})
	return m, err
}

func (v storeView) Machines(ctx context.Context, f machine.Filter) (list []machine.Machine, total int, err error) {
	err = v.d.call("store.Machines", func() (err error) {
		list, total, err = v.d.host.Store.Machines(ctx, f)
		return err
	})
	return list, total, err
}

func (v storeView) UpdateMachine(ctx context.Context, m machine.Machine) error {
	return v.d.call("store.UpdateMachine "+string(m.State), func() error { return v.d.host.Store.UpdateMachine(ctx, m) })
}

func (v storeView) DeleteMachine(ctx context.Context, id machine.ID) error {
	return v.d.call("store.DeleteMachine", func() error { return v.d.host.Store.DeleteMachine(ctx, id) })
}

func (v storeView) SaveOperation(ctx context.Context, op machine.OperationRecord) error {
	at := op.Kind
	if n := len(op.Steps); n > 0 {
		at += "/" + op.Steps[n-1].Name
	}
	return v.d.call("store.SaveOperation "+at+" "+op.Outcome, func() error { return v.d.host.Store.SaveOperation(ctx, op) })
}

func (v storeView) UnfinishedOperations(ctx context.Context) (list []machine.OperationRecord, err error) {
	err = v.d.call("store.UnfinishedOperations", func() (err error) {
		list, err = v.d.host.Store.UnfinishedOperations(ctx)
		return err
	})
	return list, err
}

func (v storeView) Operations(ctx context.Context, id machine.ID, limit int) (list []machine.OperationRecord, err error) {
	err = v.d.call("store.Operations", func() (err error) {
		list, err = v.d.host.Store.Operations(ctx, id, limit)
		return err
	})
	return list, err
}
