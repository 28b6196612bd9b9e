package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/console"
	"github.com/hyperfleet/hyperfleet/internal/vmm/process"
)

// adopt connects to a VMM that runs. Whatever fails, the VMM is left as it is.
func (d *Driver) adopt(ctx context.Context, cfg machine.VMConfig, ref machine.ProcessRef) (*vm, error) {
	if err := checkRunDir(cfg); err != nil {
		return nil, err
	}
	proc, err := process.Open(process.Identity(ref))
	if errors.Is(err, process.ErrGone) {
		return nil, errdefs.Wrap(err, errdefs.NotFound, "VMM_NOT_FOUND", "the VMM of %s is gone", cfg.ID)
	} else if err != nil {
		return nil, fmt.Errorf("adopt VMM of %s: %w", cfg.ID, err)
	}
	v, err := d.connect(ctx, cfg, proc)
	if err != nil {
		proc.Close()
		return nil, fmt.Errorf("adopt VMM of %s: %w", cfg.ID, err)
	}
	return v, nil
}

func (d *Driver) connect(ctx context.Context, cfg machine.VMConfig, proc *process.Process) (*vm, error) {
	known, err := loadRecord(cfg.RunDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && known.Process != proc.Identity() {
		return nil, errdefs.New(errdefs.NotFound, "VMM_NOT_FOUND", "the process is not the VMM of %s", cfg.ID)
	} else if err != nil {
		return nil, err
	}
	if err := started(ctx, cfg.RunDir); err != nil {
		return nil, err
	}
	rec, err := console.OpenRecord(cfg.RunDir, consoleLimit)
	if err != nil {
		return nil, err
	}
	conn, err := dial(ctx, cfg.RunDir, consoleSocket)
	if err != nil {
		return nil, errors.Join(err, rec.Close())
	}
	v := watch(cfg, proc, rec, conn, openOutput(proc.Identity().PID))
	v.forwards = known.Forwards
	return v, nil
}

// started makes sure that the vCPUs have ever run: a daemon that died within
// Boot left a VMM that has not, and is of no use.
func started(ctx context.Context, dir string) error {
	m, err := dialMonitor(ctx, dir)
	if err != nil {
		return err
	}
	defer m.Close()
	var status struct {
		Status string `json:"status"`
	}
	if err := m.execute("query-status", nil, &status); err != nil {
		return err
	}
	if status.Status == "prelaunch" {
		return errdefs.New(errdefs.NotFound, "VMM_NOT_FOUND", "the VMM never started its guest")
	}
	return nil
}
