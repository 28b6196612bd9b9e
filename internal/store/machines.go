package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const machineColumns = `id, host_id, spec, state, error_message, error_code,
	image_ref, image_digest, image_config, slot, process, port_forwards,
	created_at, updated_at, started_at, owner`

// execer is a database, or a transaction of one.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// CreateMachine inserts m and fills its Slot with the smallest free one. An id
// that exists is errdefs.Conflict.
func (s *Store) CreateMachine(ctx context.Context, m *machine.Machine) error {
	return insertMachine(ctx, s.write, m)
}

func insertMachine(ctx context.Context, db execer, m *machine.Machine) error {
	row, err := encode(m)
	if err != nil {
		return err
	}
	// One statement, so that nobody takes the slot in between.
	err = db.QueryRowContext(ctx, `
		INSERT INTO machines (id, host_id, name, spec, state, error_message, error_code,
			image_ref, image_digest, image_config, process, port_forwards,
			created_at, updated_at, started_at, owner, slot)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
			coalesce((SELECT min(slot) FROM free_slots), (SELECT max(slot) + 1 FROM machines), 1))
		RETURNING slot`,
		m.ID, m.HostID, m.Spec.Name, row.spec, m.State, m.ErrorMessage, m.ErrorCode,
		m.ImageRef, m.ImageDigest, row.imageConfig, row.process, row.forwards,
		nanos(m.CreatedAt), nanos(m.UpdatedAt), nanos(m.StartedAt), m.Owner,
	).Scan(&m.Slot)
	if isConstraint(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE) {
		return errdefs.Wrap(err, errdefs.Conflict, "MACHINE_EXISTS", "machine %s exists", m.ID)
	}
	if err != nil {
		return classify(fmt.Errorf("insert machine %s: %w", m.ID, err))
	}
	return nil
}

// Machine returns errdefs.NotFound for an unknown id.
func (s *Store) Machine(ctx context.Context, id machine.ID) (machine.Machine, error) {
	m, ok, writes := s.recent.get(id)
	if ok {
		return m, nil
	}
	m, err := scanMachine(s.read.QueryRowContext(ctx, `SELECT `+machineColumns+` FROM machines WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return machine.Machine{}, machine.NotFoundError(id)
	}
	if err != nil {
		return machine.Machine{}, classify(fmt.Errorf("read machine %s: %w", id, err))
	}
	s.recent.keep(m, writes)
	return m, nil
}

// Machines lists the newest first, and counts what f matches without its
// limit and offset.
func (s *Store) Machines(ctx context.Context, f machine.Filter) ([]machine.Machine, int, error) {
	list, total, err := s.machines(ctx, f)
	if err != nil {
		return nil, 0, classify(fmt.Errorf("list machines: %w", err))
	}
	return list, total, nil
}

func (s *Store) machines(ctx context.Context, f machine.Filter) (_ []machine.Machine, total int, err error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // list and count agree
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	// One query for each form, as an index serves "state = ?" only when it is
	// there for sure.
	where, count, args := "", `SELECT coalesce(sum(n), 0) FROM machine_counts`, []any{}
	if f.State != "" {
		where, args = ` WHERE state = ?`, append(args, f.State)
	}
	if err := tx.QueryRowContext(ctx, count+where, args...).Scan(&total); err != nil {
		return nil, 0, err
	}
	limit := f.Limit
	if limit <= 0 {
		limit = -1 // SQLite's "all"
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+machineColumns+` FROM machines`+where+` ORDER BY seq DESC LIMIT ? OFFSET ?`,
		append(args, limit, f.Offset)...)
	if err != nil {
		return nil, 0, err
	}
	list, err := collect(rows, scanMachine)
	return list, total, err
}

// CountMachines counts the machines of each state that there is, or was.
func (s *Store) CountMachines(ctx context.Context) (_ map[machine.State]int, err error) {
	rows, err := s.read.QueryContext(ctx, `SELECT state, n FROM machine_counts`)
	if err != nil {
		return nil, classify(fmt.Errorf("count machines: %w", err))
	}
	type count struct {
		state machine.State
		n     int
	}
	list, err := collect(rows, func(row scanner) (c count, err error) {
		err = row.Scan(&c.state, &c.n)
		return c, err
	})
	if err != nil {
		return nil, classify(fmt.Errorf("count machines: %w", err))
	}
	counts := make(map[machine.State]int, len(list))
	for _, c := range list {
		counts[c.state] = c.n
	}
	return counts, nil
}

// UpdateMachine replaces everything but ID, Owner, Spec, Slot and CreatedAt.
func (s *Store) UpdateMachine(ctx context.Context, m machine.Machine) error {
	row, err := encode(&m)
	if err != nil {
		return err
	}
	res, err := s.write.ExecContext(ctx, `
		UPDATE machines SET host_id = ?, state = ?, error_message = ?, error_code = ?,
			image_ref = ?, image_digest = ?, image_config = ?, process = ?, port_forwards = ?,
			updated_at = ?, started_at = ?
		WHERE id = ?`,
		m.HostID, m.State, m.ErrorMessage, m.ErrorCode,
		m.ImageRef, m.ImageDigest, row.imageConfig, row.process, row.forwards,
		nanos(m.UpdatedAt), nanos(m.StartedAt), m.ID)
	return s.changed(res, err, "update", m.ID)
}

// DeleteMachine removes a machine with its operations.
func (s *Store) DeleteMachine(ctx context.Context, id machine.ID) error {
	res, err := s.write.ExecContext(ctx, `DELETE FROM machines WHERE id = ?`, id)
	return s.changed(res, err, "delete", id)
}

func (s *Store) changed(res sql.Result, err error, verb string, id machine.ID) error {
	s.recent.forget(id)
	if err != nil {
		return classify(fmt.Errorf("%s machine %s: %w", verb, id, err))
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(machine.NotFoundError(id), err)
	}
	return nil
}

// machineRow holds the columns that are JSON.
type machineRow struct {
	spec, imageConfig, forwards string
	process                     sql.NullString
}

func encode(m *machine.Machine) (row machineRow, err error) {
	for _, col := range []struct {
		to   *string
		from any
	}{{&row.spec, m.Spec}, {&row.imageConfig, m.ImageConfig}, {&row.forwards, m.PortForwards}} {
		b, err := json.Marshal(col.from)
		if err != nil {
			return row, fmt.Errorf("encode machine %s: %w", m.ID, err)
		}
		*col.to = string(b)
	}
	if m.Process == nil {
		return row, nil
	}
	b, err := json.Marshal(m.Process)
	if err != nil {
		return row, fmt.Errorf("encode machine %s: %w", m.ID, err)
	}
	row.process = sql.NullString{String: string(b), Valid: true}
	return row, nil
}

type scanner interface{ Scan(dest ...any) error }

func scanMachine(s scanner) (m machine.Machine, err error) {
	var row machineRow
	var created, updated, started int64
	err = s.Scan(&m.ID, &m.HostID, &row.spec, &m.State, &m.ErrorMessage, &m.ErrorCode,
		&m.ImageRef, &m.ImageDigest, &row.imageConfig, &m.Slot, &row.process, &row.forwards,
		&created, &updated, &started, &m.Owner)
	if err != nil {
		return m, err
	}
	m.CreatedAt, m.UpdatedAt, m.StartedAt = fromNanos(created), fromNanos(updated), fromNanos(started)
	err = errors.Join(
		json.Unmarshal([]byte(row.spec), &m.Spec),
		json.Unmarshal([]byte(row.imageConfig), &m.ImageConfig),
		json.Unmarshal([]byte(row.forwards), &m.PortForwards))
	if row.process.Valid {
		err = errors.Join(err, json.Unmarshal([]byte(row.process.String), &m.Process))
	}
	return m, err
}

// collect scans all rows and closes them. The list is never nil.
func collect[T any](rows *sql.Rows, scan func(scanner) (T, error)) ([]T, error) {
	list := []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, errors.Join(err, rows.Close())
		}
		list = append(list, v)
	}
	return list, errors.Join(rows.Err(), rows.Close())
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}
