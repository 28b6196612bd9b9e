// Package store keeps machines, their operations and API keys in one SQLite
// file.
//
// It implements machine.Store and auth.Store: each method is one transaction,
// which is on the disk when the method returns (WAL with synchronous=FULL).
// There is one file per aggregate: machines.go, operations.go, keys.go. Rules
// are not here; they belong to packages machine and auth. The daemon opens the Store and is the only
// process that writes; its own lock sees to that.
//
// A Store is safe for concurrent use. All writes go through one connection, so
// they never wait for each other inside SQLite; reads have a pool of their own
// and see every write that has returned.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// readers is the size of the read pool: enough for a burst of lists, small
// enough to keep the page caches in memory (2 MiB each).
const readers = 4

//go:embed migrations/*.sql
var migrations embed.FS

// Store is a machine.Store and an auth.Store in SQLite.
type Store struct {
	write *sql.DB // one connection
	read  *sql.DB

	recent recent
}

var _ machine.Store = (*Store)(nil)

// Open opens the database at path, makes it if there is none (mode 0600; the
// folder must exist), and brings its schema up to date. A file that is no
// database, is damaged, or was written by a newer program is an error with the
// code DATABASE_CORRUPT or DATABASE_TOO_NEW. The caller closes the Store.
func Open(ctx context.Context, path string) (*Store, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database %q: %w", path, err)
	}
	// SQLite gives the -wal and -shm files the mode of the database.
	f, err := os.OpenFile(abs, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	s := &Store{}
	if s.write, err = sql.Open("sqlite", dsn(abs, "immediate", "synchronous(FULL)")); err != nil {
		return nil, classify(fmt.Errorf("open database %s: %w", path, err))
	}
	s.write.SetMaxOpenConns(1)
	if err := migrate(ctx, s.write); err != nil {
		return nil, errors.Join(classify(fmt.Errorf("open database %s: %w", path, err)), s.write.Close())
	}
	if s.read, err = sql.Open("sqlite", dsn(abs, "deferred", "query_only(1)")); err != nil {
		return nil, errors.Join(classify(fmt.Errorf("open database %s: %w", path, err)), s.write.Close())
	}
	s.read.SetMaxOpenConns(readers)
	s.read.SetMaxIdleConns(readers)
	return s, nil
}

// dsn names the database for the driver. busy_timeout covers the moments in
// which SQLite itself holds the file's lock: a checkpoint, another process's
// backup. A writer takes its lock when it begins, as one that upgrades a read
// fails at once instead of waiting.
func dsn(path, txlock, pragma string) string {
	q := url.Values{
		"_pragma": {"busy_timeout(5000)", "journal_mode(WAL)", "foreign_keys(1)", pragma},
		"_txlock": {txlock},
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return u.String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, dir)
	if err != nil {
		return err
	}
	version, err := schemaVersion(ctx, db)
	if err != nil {
		return err
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; version > newest {
		return errdefs.New(errdefs.Unsupported, "DATABASE_TOO_NEW",
			"database has schema version %d and this program knows %d: use a newer hyperfleet", version, newest)
	}
	_, err = p.Up(ctx)
	return err
}

// schemaVersion is the latest migration that the database has, 0 for a new
// one. It asks goose's table itself: goose takes a damaged one for none.
func schemaVersion(ctx context.Context, db *sql.DB) (version int64, err error) {
	var tables int
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE name = ?`, goose.DefaultTablename).Scan(&tables)
	if err != nil || tables == 0 {
		return 0, err
	}
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+goose.DefaultTablename).Scan(&version)
	return version, err
}

// Close closes the database; everything is in the one file then.
func (s *Store) Close() error {
	return errors.Join(s.read.Close(), s.write.Close())
}
