package machine

import (
	"context"
	"time"
)

// KeepOperations is how many of a machine's finished operations a Store keeps:
// the latest.
const KeepOperations = 50

// Store keeps machines and operations. The implementation is package store.
// Every method is one transaction; it is durable when the method returns.
type Store interface {
	// CreateMachine inserts m and fills its Slot with the smallest free one,
	// from 1. An id that exists is errdefs.Conflict.
	CreateMachine(ctx context.Context, m *Machine) error
	// Machine returns errdefs.NotFound for an unknown id.
	Machine(ctx context.Context, id ID) (Machine, error)
	// Machines lists the newest first, and counts what f matches without its
	// limit and offset.
	Machines(ctx context.Context, f Filter) ([]Machine, int, error)
	// UpdateMachine replaces everything but ID, Owner, Spec, Slot and CreatedAt.
	UpdateMachine(ctx context.Context, m Machine) error
	// DeleteMachine removes a machine with its operations.
	DeleteMachine(ctx context.Context, id ID) error

	// SaveOperation inserts or replaces one operation with its steps, and drops
	// finished ones of the machine beyond KeepOperations. It returns
	// errdefs.NotFound for an unknown machine.
	SaveOperation(ctx context.Context, op OperationRecord) error
	// UnfinishedOperations lists those that have no outcome, oldest first.
	UnfinishedOperations(ctx context.Context) ([]OperationRecord, error)
	// Operations lists a machine's newest first, at most limit; 0 means all.
	Operations(ctx context.Context, id ID, limit int) ([]OperationRecord, error)
}

// Filter narrows a list. The zero value lists everything.
type Filter struct {
	State  State // "" means any
	Limit  int   // 0 means all
	Offset int
}

// OperationRecord is the durable form of an operation.
type OperationRecord struct {
	ID         string
	MachineID  ID
	Kind       string // "start", "stop", "delete"
	Steps      []StepRecord
	Outcome    string // "" while it runs; "done", "undone", "failed"
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
}

// StepRecord is one step: it is written before the step acts and after it.
type StepRecord struct {
	Name       string    `json:"name"`
	State      string    `json:"state"` // "doing", "done", "undone", "failed"
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at,omitzero"`
	Error      string    `json:"error,omitempty"`
}
