package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Imported says which of the records given to Import were put in; the others
// were there already, or are in conflict with what is there.
type Imported struct {
	Machines  map[machine.ID]bool
	Keys      map[auth.KeyID]bool
	Conflicts map[auth.KeyID]error // only when they were to be left out
}

// Import puts in the records that are not there yet, all of them or, with an
// error, none. A machine is there when its id is; what has become of it since
// stays. A key is there when its id is with the same hash; the id with another
// hash, or the hash under another id, is errdefs.Conflict, unless such keys are
// to be left out.
func (s *Store) Import(ctx context.Context, machines []machine.Machine, keys []auth.Key, leaveOut bool) (done Imported, err error) {
	done = Imported{Machines: map[machine.ID]bool{}, Keys: map[auth.KeyID]bool{}, Conflicts: map[auth.KeyID]error{}}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return done, classify(fmt.Errorf("import: %w", err))
	}
	defer func() {
		if err != nil {
			done, err = Imported{}, errors.Join(err, tx.Rollback())
		}
	}()
	for _, m := range machines {
		if done.Machines[m.ID], err = importMachine(ctx, tx, m); err != nil {
			return done, err
		}
	}
	for _, k := range keys {
		switch done.Keys[k.ID], err = importKey(ctx, tx, k); {
		case leaveOut && errdefs.Is(err, errdefs.Conflict):
			done.Conflicts[k.ID] = err
		case err != nil:
			return done, err
		}
	}
	if err := tx.Commit(); err != nil {
		return Imported{}, classify(fmt.Errorf("import: %w", err))
	}
	return done, nil
}

func importMachine(ctx context.Context, db execer, m machine.Machine) (imported bool, err error) {
	var there bool
	if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM machines WHERE id = ?)`, m.ID).Scan(&there); err != nil {
		return false, classify(fmt.Errorf("look for machine %s: %w", m.ID, err))
	}
	if there {
		return false, nil
	}
	return true, insertMachine(ctx, db, &m)
}

func importKey(ctx context.Context, db execer, k auth.Key) (imported bool, err error) {
	var hash string
	err = db.QueryRowContext(ctx, `SELECT key_hash FROM api_keys WHERE id = ?`, k.ID).Scan(&hash)
	switch {
	case err == nil && hash == k.Hash.String():
		return false, nil
	case err != nil && !errors.Is(err, sql.ErrNoRows):
		return false, classify(fmt.Errorf("look for key %s: %w", k.ID, err))
	}
	err = insertKey(ctx, db, k) // a conflict unless id and hash are free
	return err == nil, err
}
