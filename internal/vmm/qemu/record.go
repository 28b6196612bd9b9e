package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/process"
)

const recordName = "vmm.json"

// record is what a run directory says about its VMM.
type record struct {
	Process  process.Identity      `json:"process"`
	Forwards []machine.PortForward `json:"forwards,omitempty"`
}

// save replaces the record in dir at once.
func (r record) save(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("save VMM record: %w", err)
	}
	temp := filepath.Join(dir, recordName+".new")
	if err := os.WriteFile(temp, b, 0o600); err != nil {
		return fmt.Errorf("save VMM record: %w", err)
	}
	if err := os.Rename(temp, filepath.Join(dir, recordName)); err != nil {
		return fmt.Errorf("save VMM record: %w", err)
	}
	return nil
}

// loadRecord returns fs.ErrNotExist when there is none.
func loadRecord(dir string) (record, error) {
	f, err := os.Open(filepath.Join(dir, recordName))
	if err != nil {
		return record{}, err
	}
	defer f.Close()
	var r record
	if err := json.NewDecoder(io.LimitReader(f, 1<<16)).Decode(&r); err != nil {
		return record{}, fmt.Errorf("read VMM record: %w", err)
	}
	return r, nil
}

// findVMM finds the living processes that belong to the machine. Normally the
// run directory tells; a daemon that died between starting a VMM and recording
// it left one that only its command line identifies.
func findVMM(cfg machine.VMConfig) ([]process.Identity, error) {
	r, err := loadRecord(cfg.RunDir)
	if err == nil {
		p, err := process.Open(r.Process)
		if errors.Is(err, process.ErrGone) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		p.Close()
		return []process.Identity{r.Process}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return process.Find(cfg.UID, func(argv []string) bool {
		return slices.Contains(argv, vmName(cfg.ID))
	})
}

// killVMMs ends what findVMM finds and waits until it is gone.
func killVMMs(ctx context.Context, cfg machine.VMConfig) error {
	found, err := findVMM(cfg)
	if err != nil {
		return err
	}
	for _, id := range found {
		p, err := process.Open(id)
		if errors.Is(err, process.ErrGone) {
			continue
		} else if err != nil {
			return err
		}
		err = p.Kill()
		if err == nil {
			_, err = p.Wait(ctx)
		}
		p.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
