package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

var _ auth.Store = (*Store)(nil)

const keyColumns = `id, name, key_hash, key_prefix, scopes, created_at, expires_at, last_used_at, revoked_at`

// CreateKey inserts k. An id or a hash that exists is errdefs.Conflict.
func (s *Store) CreateKey(ctx context.Context, k auth.Key) error { return insertKey(ctx, s.write, k) }

func insertKey(ctx context.Context, db execer, k auth.Key) error {
	scopes, err := json.Marshal(k.Scopes)
	if err != nil {
		return fmt.Errorf("encode key %s: %w", k.ID, err)
	}
	_, err = db.ExecContext(ctx, `INSERT INTO api_keys (`+keyColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		k.ID, k.Name, k.Hash.String(), k.Prefix, string(scopes),
		nanos(k.CreatedAt), nanos(k.ExpiresAt), nanos(k.LastUsedAt), nanos(k.RevokedAt))
	if isConstraint(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE) {
		return errdefs.Wrap(err, errdefs.Conflict, "KEY_EXISTS", "API key %s exists", k.ID)
	}
	if err != nil {
		return classify(fmt.Errorf("insert key %s: %w", k.ID, err))
	}
	return nil
}

// Key returns errdefs.NotFound for an unknown id.
func (s *Store) Key(ctx context.Context, id auth.KeyID) (auth.Key, error) {
	k, err := scanKey(s.read.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return auth.Key{}, auth.ErrNotFound
	}
	if err != nil {
		return auth.Key{}, classify(fmt.Errorf("read key %s: %w", id, err))
	}
	return k, nil
}

// Keys lists the newest first, and counts them without limit and offset.
func (s *Store) Keys(ctx context.Context, limit, offset int) ([]auth.Key, int, error) {
	list, total, err := s.keys(ctx, limit, offset)
	if err != nil {
		return nil, 0, classify(fmt.Errorf("list keys: %w", err))
	}
	return list, total, nil
}

func (s *Store) keys(ctx context.Context, limit, offset int) (_ []auth.Key, total int, err error) {
	tx, err := s.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true}) // list and count agree
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM api_keys`).Scan(&total); err != nil {
		return nil, 0, err
	}
	if limit <= 0 {
		limit = -1 // SQLite's "all"
	}
	rows, err := tx.QueryContext(ctx, `SELECT `+keyColumns+` FROM api_keys ORDER BY seq DESC LIMIT ? OFFSET ?`, limit, offset)
	if err != nil {
		return nil, 0, err
	}
	list, err := collect(rows, scanKey)
	return list, total, err
}

// RevokeKey sets RevokedAt, unless it is set already. It returns
// errdefs.NotFound for an unknown id.
func (s *Store) RevokeKey(ctx context.Context, id auth.KeyID, at time.Time) error {
	res, err := s.write.ExecContext(ctx, `
		UPDATE api_keys SET revoked_at = CASE revoked_at WHEN 0 THEN ? ELSE revoked_at END WHERE id = ?`, nanos(at), id)
	if err != nil {
		return classify(fmt.Errorf("revoke key %s: %w", id, err))
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(auth.ErrNotFound, err)
	}
	return nil
}

// TouchKeys sets LastUsedAt of each key that is not used later already.
func (s *Store) TouchKeys(ctx context.Context, used map[auth.KeyID]time.Time) error {
	if err := s.touchKeys(ctx, used); err != nil {
		return classify(fmt.Errorf("write the last use of %d keys: %w", len(used), err))
	}
	return nil
}

func (s *Store) touchKeys(ctx context.Context, used map[auth.KeyID]time.Time) (err error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	for id, at := range used {
		if _, err := tx.ExecContext(ctx, `UPDATE api_keys SET last_used_at = max(last_used_at, ?) WHERE id = ?`, nanos(at), id); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func scanKey(s scanner) (k auth.Key, err error) {
	var hash, scopes string
	var created, expires, used, revoked int64
	if err := s.Scan(&k.ID, &k.Name, &hash, &k.Prefix, &scopes, &created, &expires, &used, &revoked); err != nil {
		return k, err
	}
	k.CreatedAt, k.ExpiresAt, k.LastUsedAt, k.RevokedAt = fromNanos(created), fromNanos(expires), fromNanos(used), fromNanos(revoked)
	k.Hash, err = auth.ParseHash(hash)
	return k, errors.Join(err, json.Unmarshal([]byte(scopes), &k.Scopes))
}
