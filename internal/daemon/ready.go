package daemon

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// part is one thing that machines need.
type part struct {
	name  string
	check func(ctx context.Context) error
}

// needs lists what must be there before a machine can start.
func (d *Daemon) needs(driver machine.Driver, kernels *kernel.Store) []part {
	return []part{
		{"database", d.alive},
		{"vmm", func(ctx context.Context) error {
			_, err := driver.Capabilities(ctx)
			return err
		}},
		{"kernel", func(context.Context) error { return kernelThere(d.cfg.Kernel, kernels) }},
	}
}

// kernelThere checks the operator's kernel or, without one, that of setup.
func kernelThere(path string, kernels *kernel.Store) error {
	if path == "" {
		_, err := kernels.Installed()
		return err
	}
	_, err := os.Stat(path)
	return err
}

// ready returns errdefs.Unavailable that names every part that is missing and,
// where that may be told, why.
func ready(ctx context.Context, parts []part) error {
	var missing []string
	var causes []error
	for _, p := range parts {
		err := p.check(ctx)
		if err == nil {
			continue
		}
		causes = append(causes, err)
		said := p.name
		if e, ok := errors.AsType[*errdefs.Error](err); ok {
			said += ": " + e.Message
		}
		missing = append(missing, said)
	}
	if missing == nil {
		return nil
	}
	return errdefs.Wrap(errors.Join(causes...), errdefs.Unavailable, "NOT_READY", "not ready: %s", strings.Join(missing, "; "))
}
