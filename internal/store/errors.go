package store

import (
	"errors"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// classify gives what SQLite reports a kind and a code where a person can do
// something about it. https://www.sqlite.org/rescode.html
func classify(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch e.Code() & 0xff { // the primary result code
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return errdefs.Wrap(err, errdefs.Internal, "DATABASE_CORRUPT", "the database is damaged: restore a backup of it")
	case sqlite3.SQLITE_FULL:
		return errdefs.Wrap(err, errdefs.Exhausted, "DISK_FULL", "no disk space left for the database")
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return errdefs.Wrap(err, errdefs.Unavailable, "DATABASE_BUSY", "the database is busy")
	}
	return err
}

// isConstraint reports whether err is one of SQLite's extended codes for a
// broken constraint.
func isConstraint(err error, codes ...int) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	for _, code := range codes {
		if e.Code() == code {
			return true
		}
	}
	return false
}
