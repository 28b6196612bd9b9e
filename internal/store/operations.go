package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const operationColumns = `id, machine_id, kind, steps, outcome, error, started_at, finished_at`

// SaveOperation inserts or replaces one operation with its steps. When it is
// finished, the machine's oldest finished ones beyond machine.KeepOperations
// are dropped.
// An unknown machine is errdefs.NotFound.
func (s *Store) SaveOperation(ctx context.Context, op machine.OperationRecord) error {
	steps, err := json.Marshal(op.Steps)
	if err != nil {
		return fmt.Errorf("encode operation %s: %w", op.ID, err)
	}
	err = s.saveOperation(ctx, op, string(steps))
	if isConstraint(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) {
		return machine.NotFoundError(op.MachineID)
	}
	if err != nil {
		return classify(fmt.Errorf("save operation %s: %w", op.ID, err))
	}
	return nil
}

func (s *Store) saveOperation(ctx context.Context, op machine.OperationRecord, steps string) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO operations (`+operationColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET steps = excluded.steps, outcome = excluded.outcome,
			error = excluded.error, finished_at = excluded.finished_at`,
		op.ID, op.MachineID, op.Kind, steps, op.Outcome, op.Error,
		nanos(op.StartedAt), nanos(op.FinishedAt))
	if err == nil && op.Outcome != "" {
		_, err = tx.ExecContext(ctx, `
			DELETE FROM operations WHERE machine_id = ?1 AND outcome <> '' AND seq <= (
				SELECT seq FROM operations WHERE machine_id = ?1 AND outcome <> ''
				ORDER BY seq DESC LIMIT 1 OFFSET ?2)`, op.MachineID, machine.KeepOperations)
	}
	if err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

// UnfinishedOperations lists those that have no outcome, the oldest first.
func (s *Store) UnfinishedOperations(ctx context.Context) ([]machine.OperationRecord, error) {
	return s.operations(ctx, `outcome = '' ORDER BY seq`)
}

// Operations lists a machine's, the newest first, at most limit; 0 means all.
func (s *Store) Operations(ctx context.Context, id machine.ID, limit int) ([]machine.OperationRecord, error) {
	if limit <= 0 {
		limit = -1
	}
	return s.operations(ctx, `machine_id = ? ORDER BY seq DESC LIMIT ?`, id, limit)
}

func (s *Store) operations(ctx context.Context, where string, args ...any) ([]machine.OperationRecord, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT `+operationColumns+` FROM operations WHERE `+where, args...)
	if err != nil {
		return nil, classify(fmt.Errorf("list operations: %w", err))
	}
	list, err := collect(rows, scanOperation)
	if err != nil {
		return nil, classify(fmt.Errorf("list operations: %w", err))
	}
	return list, nil
}

func scanOperation(s scanner) (op machine.OperationRecord, err error) {
	var steps string
	var started, finished int64
	err = s.Scan(&op.ID, &op.MachineID, &op.Kind, &steps, &op.Outcome, &op.Error, &started, &finished)
	if err != nil {
		return op, err
	}
	op.StartedAt, op.FinishedAt = fromNanos(started), fromNanos(finished)
	return op, json.Unmarshal([]byte(steps), &op.Steps)
}
