package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/store"
	"github.com/hyperfleet/hyperfleet/internal/store/reference"
)

// ImportRequest names a database of the reference. SkipInvalid leaves out rows
// that cannot be carried over, for whose sake nothing is imported otherwise.
type ImportRequest = struct {
	File        string
	SkipInvalid bool
}

// ImportReport tells of every row. Without Done nothing was changed.
type ImportReport = struct {
	Done bool
	Rows []ImportRow
}

// ImportRow tells of one row: Kind is machine or key, Outcome is one of the
// words below, Notes say what is not carried over, or what is wrong.
type ImportRow = struct {
	Kind, ID, Name, Outcome string
	Notes                   []string
}

// What becomes of a row.
const (
	rowImported = "imported"
	rowThere    = "already there"
	rowValid    = "valid"   // but nothing was imported
	rowInvalid  = "invalid" // and not imported
)

// ImportReference takes over the machines and keys of a reference's database
// in one transaction. It takes the lock of the state folder: no daemon may run.
func ImportReference(ctx context.Context, req ImportRequest) (report ImportReport, err error) {
	cfg, err := config.Load(config.Sources{})
	if err != nil {
		return report, err
	}
	content, err := reference.Read(ctx, req.File, reference.Options{HostID: hostID(), Limits: limits(cfg.Config)})
	if err != nil {
		return report, err
	}
	in := importOf(content)
	if in.invalid > 0 && !req.SkipInvalid {
		return in.report(rowValid, nil), nil
	}
	if err := makeDir(cfg.StateDir, 0o700); err != nil {
		return report, err
	}
	unlock, err := lockDir(cfg.StateDir)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := makeParent(cfg.Database, cfg.StateDir); err != nil {
		return report, err
	}
	db, err := store.Open(ctx, cfg.Database)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	done, err := db.Import(ctx, in.machines, in.keys, req.SkipInvalid)
	if err != nil {
		return report, err
	}
	report = in.report(rowThere, &done)
	report.Done = true
	return report, nil
}

// makeParent makes the database's folder. It may be one of others, whose mode
// is not ours to set.
func makeParent(database, stateDir string) error {
	dir := filepath.Dir(database)
	if dir == filepath.Clean(stateDir) {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return explainDir(dir, err)
	}
	return nil
}

func limits(cfg config.Config) machine.Limits {
	return machine.Limits{
		DefaultDiskMiB: cfg.DiskMiB, MaxDiskMiB: cfg.MaxDiskMiB, MaxMemMiB: cfg.MaxMemMiB, MaxVCPUs: cfg.MaxVCPUs,
		Host:  machine.Quota{Machines: cfg.QuotaMachines, VCPUs: cfg.QuotaVCPUs, MemMiB: cfg.QuotaMemMiB, DiskMiB: cfg.QuotaDiskMiB},
		Owner: machine.Quota{Machines: cfg.KeyQuotaMachines, VCPUs: cfg.KeyQuotaVCPUs, MemMiB: cfg.KeyQuotaMemMiB, DiskMiB: cfg.KeyQuotaDiskMiB},
	}
}

// referenceImport is what of a reference's database can be imported.
type referenceImport struct {
	content  reference.Content
	machines []machine.Machine
	keys     []auth.Key
	invalid  int
}

func importOf(content reference.Content) referenceImport {
	in := referenceImport{content: content}
	for _, m := range content.Machines {
		if m.Err != nil {
			in.invalid++
			continue
		}
		in.machines = append(in.machines, m.Value)
	}
	for _, k := range content.Keys {
		if k.Err != nil {
			in.invalid++
			continue
		}
		in.keys = append(in.keys, k.Value)
	}
	return in
}

// report tells of every row; what is neither wrong nor newly imported has the
// outcome otherwise.
func (in referenceImport) report(otherwise string, done *store.Imported) ImportReport {
	var r ImportReport
	if done == nil {
		done = &store.Imported{}
	}
	for _, m := range in.content.Machines {
		r.Rows = append(r.Rows, reportRow("machine", m, done.Machines[m.Value.ID], otherwise, nil))
	}
	for _, k := range in.content.Keys {
		r.Rows = append(r.Rows, reportRow("key", k, done.Keys[k.Value.ID], otherwise, done.Conflicts[k.Value.ID]))
	}
	return r
}

func reportRow[T any](kind string, rec reference.Record[T], imported bool, otherwise string, conflict error) ImportRow {
	row := ImportRow{Kind: kind, ID: rec.ID, Name: rec.Name, Outcome: otherwise, Notes: rec.Notes}
	switch err := errors.Join(rec.Err, conflict); {
	case err != nil:
		row.Outcome, row.Notes = rowInvalid, strings.Split(err.Error(), "\n")
	case imported:
		row.Outcome = rowImported
	}
	return row
}
