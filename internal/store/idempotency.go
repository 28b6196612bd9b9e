package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
)

var _ idempotency.Store = (*Store)(nil)

// displaceBatch is how many records go at once where the bounds are reached, so
// that not every write has to remove one.
const displaceBatch = 16

// StartRequest inserts r, unless a record of its key is there that has not
// expired: that is returned.
func (s *Store) StartRequest(ctx context.Context, r idempotency.Record) (old idempotency.Record, found bool, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		old, err = scanRequest(tx.QueryRowContext(ctx, `
			SELECT caller, key, operation, fingerprint, reference, status, header, body, dropped, created_at, expires_at
			FROM idempotency WHERE caller = ? AND key = ?`, r.Key.Caller, r.Key.Value))
		switch {
		case err == nil && old.ExpiresAt.After(r.CreatedAt):
			found = true
			return nil
		case err == nil:
			err = forget(ctx, tx, r.Key)
		case errors.Is(err, sql.ErrNoRows):
			err = nil
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `
			INSERT INTO idempotency (caller, key, operation, fingerprint, reference, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			r.Key.Caller, r.Key.Value, r.Operation, r.Fingerprint[:], r.Reference, nanos(r.CreatedAt), nanos(r.ExpiresAt))
		return err
	})
	if err != nil {
		return idempotency.Record{}, false, classify(fmt.Errorf("insert idempotency key: %w", err))
	}
	return old, found, nil
}

// FinishRequest gives the key's record its result and keeps the bounds.
func (s *Store) FinishRequest(ctx context.Context, k idempotency.Key, r idempotency.Result, b idempotency.Bounds) error {
	header, err := json.Marshal(r.Header)
	if err != nil {
		return fmt.Errorf("encode the result of an idempotency key: %w", err)
	}
	err = s.transact(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(ctx, `
			UPDATE idempotency SET status = ?, header = ?, body = ?, dropped = ?, size = ? WHERE caller = ? AND key = ?`,
			r.Status, string(header), r.Body, r.Dropped, r.Size(), k.Caller, k.Value)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(errdefs.New(errdefs.NotFound, "NOT_FOUND", "no record of the idempotency key"), err)
		}
		return displace(ctx, tx, k.Caller, b)
	})
	if err != nil {
		return classify(fmt.Errorf("record the result of an idempotency key: %w", err))
	}
	return nil
}

// displace removes the oldest finished records until the bounds hold.
func displace(ctx context.Context, tx *sql.Tx, caller string, b idempotency.Bounds) error {
	for _, bound := range []struct {
		query   string // caller, records, bytes
		args    []any
		records int
		bytes   int64
	}{
		{`SELECT caller, n, bytes FROM idempotency_use WHERE caller = ?`, []any{caller}, b.CallerRecords, b.CallerBytes},
		{`SELECT caller, (SELECT sum(n) FROM idempotency_use), (SELECT sum(bytes) FROM idempotency_use)
			FROM idempotency_use ORDER BY bytes DESC, n DESC LIMIT 1`, nil, b.Records, b.Bytes},
	} {
		for {
			var who string
			var n int
			var bytes int64
			err := tx.QueryRowContext(ctx, bound.query, bound.args...).Scan(&who, &n, &bytes)
			if errors.Is(err, sql.ErrNoRows) {
				break
			}
			if err != nil {
				return err
			}
			if n <= bound.records && bytes <= bound.bytes {
				break
			}
			batch := min(displaceBatch, max(1, n/displaceBatch))
			if _, err := tx.ExecContext(ctx, `DELETE FROM idempotency WHERE seq IN (
				SELECT seq FROM idempotency WHERE caller = ? AND status <> 0 ORDER BY seq LIMIT ?)`, who, batch); err != nil {
				return err
			}
		}
	}
	return nil
}

// ForgetRequest removes the key's record, if there is one.
func (s *Store) ForgetRequest(ctx context.Context, k idempotency.Key) error {
	if err := forget(ctx, s.write, k); err != nil {
		return classify(fmt.Errorf("delete idempotency key: %w", err))
	}
	return nil
}

func forget(ctx context.Context, db execer, k idempotency.Key) error {
	_, err := db.ExecContext(ctx, `DELETE FROM idempotency WHERE caller = ? AND key = ?`, k.Caller, k.Value)
	return err
}

// PruneRequests removes what has expired by now.
func (s *Store) PruneRequests(ctx context.Context, now time.Time) error {
	if _, err := s.write.ExecContext(ctx, `DELETE FROM idempotency WHERE expires_at <= ?`, nanos(now)); err != nil {
		return classify(fmt.Errorf("delete expired idempotency keys: %w", err))
	}
	return nil
}

// transact runs f in a transaction of the writer.
func (s *Store) transact(ctx context.Context, f func(*sql.Tx) error) error {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return errors.Join(err, tx.Rollback())
	}
	return tx.Commit()
}

func scanRequest(s scanner) (r idempotency.Record, err error) {
	var fingerprint, body []byte
	var header string
	var status int
	var dropped bool
	var created, expires int64
	err = s.Scan(&r.Key.Caller, &r.Key.Value, &r.Operation, &fingerprint, &r.Reference, &status, &header, &body, &dropped, &created, &expires)
	if err != nil {
		return r, err
	}
	copy(r.Fingerprint[:], fingerprint)
	r.CreatedAt, r.ExpiresAt = fromNanos(created), fromNanos(expires)
	if status == 0 {
		return r, nil
	}
	r.Result = &idempotency.Result{Status: status, Body: body, Dropped: dropped}
	return r, json.Unmarshal([]byte(header), &r.Result.Header)
}
