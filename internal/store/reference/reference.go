// Package reference reads the database of the reference implementation: its
// machines and API keys as ours would be. Package daemon puts them into the
// store; nothing is written here.
//
// The file is not trusted. It is opened read-only, its tables have to be plain
// ones, and the number and size of rows are bounded. What is wrong with a row
// is told with the row; what is wrong with the file is an error.
package reference

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const (
	maxFile = 1 << 30   // bytes; a machine takes about 2 KiB
	maxRow  = 256 << 10 // bytes of all columns that are read
	maxRows = 100_000   // of one table
)

// Record is one row, as a value of ours.
type Record[T any] struct {
	ID, Name string   // as far as they are known; for people
	Value    T        // to be used only without Err
	Notes    []string // what of the row is not carried over, and what to do
	Err      error    // why the row cannot be carried over at all
}

// Content is what a database holds, the oldest rows first.
type Content struct {
	Machines []Record[machine.Machine]
	Keys     []Record[auth.Key]
}

// Options say what machines become.
type Options struct {
	HostID string // owner of the machines
	Limits machine.Limits
}

// Read reads the database at path. A file that is no database, is damaged, or
// has another schema is errdefs.Invalid.
func Read(ctx context.Context, path string, o Options) (c Content, err error) {
	db, err := open(path)
	if err != nil {
		return c, err
	}
	defer func() {
		err = errors.Join(err, db.Close())
		if err != nil {
			err = explain(path, err)
		}
	}()
	if err := check(ctx, db); err != nil {
		return c, err
	}
	machines, keys, hashes := unique[machine.ID]{}, unique[auth.KeyID]{}, unique[auth.Hash]{}
	err = each(ctx, db, machineTable, func(r row) {
		m := readMachine(r, o)
		if m.Err == nil {
			m.Err = machines.claim("id", m.Value.ID)
		}
		c.Machines = append(c.Machines, m)
	})
	if err != nil {
		return c, err
	}
	err = each(ctx, db, keyTable, func(r row) {
		k := readKey(r)
		if k.Err == nil {
			k.Err = errors.Join(keys.claim("id", k.Value.ID), hashes.claim("key_hash", k.Value.Hash))
		}
		c.Keys = append(c.Keys, k)
	})
	return c, err
}

// unique is a set of what rows have for themselves.
type unique[T comparable] map[T]bool

func (u unique[T]) claim(column string, v T) error {
	if u[v] {
		return fmt.Errorf("%s is that of an earlier row", column)
	}
	u[v] = true
	return nil
}

func wrongFile(format string, args ...any) error {
	return errdefs.New(errdefs.Invalid, "REFERENCE_INVALID", format, args...)
}

func open(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open reference database: %w", err)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("open reference database: %w", err)
	case !info.Mode().IsRegular():
		return nil, wrongFile("%s is no regular file", path)
	case info.Size() == 0:
		return nil, wrongFile("%s is empty", path)
	case info.Size() > maxFile:
		return nil, wrongFile("%s is larger than %d bytes", path, maxFile)
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"mode":    {"ro"},
		"_pragma": {"query_only(1)", "trusted_schema(0)", "cell_size_check(1)", "mmap_size(0)", "busy_timeout(5000)"},
	}.Encode()}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, fmt.Errorf("open reference database %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// explain says in our words what SQLite says of a file.
func explain(path string, err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return fmt.Errorf("read reference database %s: %w", path, err)
	}
	switch e.Code() & 0xff { // the primary result code
	case sqlite3.SQLITE_NOTADB:
		return errdefs.Wrap(err, errdefs.Invalid, "REFERENCE_INVALID", "%s is no SQLite database", path)
	case sqlite3.SQLITE_CORRUPT:
		return errdefs.Wrap(err, errdefs.Invalid, "REFERENCE_INVALID", "%s is damaged", path)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errdefs.Wrap(err, errdefs.Unavailable, "REFERENCE_BUSY", "%s is being written: stop the reference first", path)
	}
	return fmt.Errorf("read reference database %s: %w", path, err)
}

// table is what is read of one table.
type table struct {
	name    string
	columns []string
}

// check makes sure that the tables are there, with their columns, and that
// they are tables: a view or a virtual table runs what its author likes.
func check(ctx context.Context, db *sql.DB) error {
	for _, t := range []table{machineTable, keyTable} {
		var kind, definition string
		err := db.QueryRowContext(ctx, `SELECT type, substr(sql, 1, 32) FROM sqlite_schema WHERE name = ?`, t.name).Scan(&kind, &definition)
		if errors.Is(err, sql.ErrNoRows) {
			return wrongFile("this is no database of the reference: it has no table %s", t.name)
		}
		if err != nil {
			return err
		}
		if kind != "table" || !strings.HasPrefix(strings.ToUpper(definition), "CREATE TABLE") {
			return wrongFile("this is no database of the reference: %s is no plain table", t.name)
		}
		if err := t.check(ctx, db); err != nil {
			return err
		}
	}
	return nil
}

func (t table) check(ctx context.Context, db *sql.DB) (err error) {
	rows, err := db.QueryContext(ctx, `SELECT name, hidden FROM pragma_table_xinfo(?)`, t.name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	missing := slices.Clone(t.columns)
	for rows.Next() {
		var name string
		var hidden int
		if err := rows.Scan(&name, &hidden); err != nil {
			return err
		}
		if hidden == 0 { // neither computed nor of a virtual table
			missing = slices.DeleteFunc(missing, func(column string) bool { return column == name })
		}
	}
	if len(missing) > 0 && rows.Err() == nil {
		return wrongFile("this is no database of the reference as its five migrations leave it: table %s has no column %s",
			t.name, strings.Join(missing, ", "))
	}
	return rows.Err()
}

// each calls f with every row of the table, in the order of their creation.
func each(ctx context.Context, db *sql.DB, t table, f func(row)) (err error) {
	var sizes, values []string
	for _, c := range t.columns {
		sizes = append(sizes, "coalesce(octet_length("+c+"), 0)")
		values = append(values, fmt.Sprintf("CASE WHEN octet_length(%s) <= %d THEN %s END", c, maxRow/len(t.columns), c))
	}
	// The columns are those of ours; values that are too long are not loaded.
	query := fmt.Sprintf(`SELECT max(%s), %s FROM %s ORDER BY rowid LIMIT %d`,
		strings.Join(sizes, ", "), strings.Join(values, ", "), t.name, maxRows+1)
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	n := 0
	for rows.Next() {
		if n++; n > maxRows {
			return wrongFile("table %s has more than %d rows", t.name, maxRows)
		}
		var largest int
		r := row{values: map[string]any{}}
		into, got := []any{&largest}, make([]any, len(t.columns))
		for i := range got {
			into = append(into, &got[i])
		}
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for i, c := range t.columns {
			r.values[c] = got[i]
		}
		if limit := maxRow / len(t.columns); largest > limit {
			r.fail("a column has %d bytes, more than %d", largest, limit)
		}
		f(r)
	}
	return rows.Err()
}
