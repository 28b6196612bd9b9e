package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/ext4"
	"github.com/hyperfleet/hyperfleet/internal/guest"
	"github.com/hyperfleet/hyperfleet/internal/httpapi"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/image"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/metrics"
	"github.com/hyperfleet/hyperfleet/internal/store"
	"github.com/hyperfleet/hyperfleet/internal/vmm/qemu"
)

// closeTimeout bounds the undoing of starts that are under way when the daemon
// ends.
const closeTimeout = 30 * time.Second

// Daemon is the engine with its API.
type Daemon struct {
	cfg     config.Config
	log     *slog.Logger
	parts   closers
	metrics *metrics.Metrics
	manager *machine.Manager
	keys    *auth.Keyring
	api     *httpapi.Server

	idempotency *idempotency.Keeper

	headerTimeout, idleTimeout time.Duration // of connections
	servers                    []server
	port                       *port // nil without TCP
}

// closers is a stack of what has to be closed, last first.
type closers []func() error

func (c *closers) push(f func() error) { *c = append(*c, f) }

// close runs the stack and empties it.
func (c *closers) close() error {
	var errs []error
	for _, f := range slices.Backward(*c) {
		errs = append(errs, f())
	}
	*c = nil
	return errors.Join(errs...)
}

// New takes the locks of the state and run folders, builds every part, and
// brings the records and the machines that run back together. The caller
// closes the Daemon. ctx bounds the call only.
func New(ctx context.Context, cfg config.Config, log *slog.Logger) (_ *Daemon, err error) {
	d := &Daemon{headerTimeout: headerTimeout, idleTimeout: idleTimeout, cfg: cfg, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.parts.close())
		}
	}()
	if err := d.lockFolders(); err != nil {
		return nil, err
	}
	if err := d.buildManager(ctx); err != nil {
		return nil, err
	}
	if err := d.manager.Recover(ctx); err != nil {
		return nil, fmt.Errorf("take over machines: %w", err)
	}
	return d, nil
}

// Close ends every part in reverse order and leaves machines running. It is
// idempotent.
func (d *Daemon) Close() error { return d.parts.close() }

func (d *Daemon) lockFolders() error {
	folders := []struct {
		path string
		mode os.FileMode
	}{
		{d.cfg.StateDir, 0o700},
		{d.cfg.RunDir, 0o711}, // the socket's own mode says who may connect
	}
	for _, f := range folders {
		if err := makeDir(f.path, f.mode); err != nil {
			return err
		}
		unlock, err := lockDir(f.path)
		if err != nil {
			return err
		}
		d.parts.push(unlock)
	}
	if err := makeParent(d.cfg.Database, d.cfg.StateDir); err != nil {
		return err
	}
	if err := sweepSockets(d.cfg.RunDir); err != nil {
		return err
	}
	return emptyDir(d.spoolDir())
}

// spoolDir is in the state folder: the run folder is memory on most hosts, of
// which the whole host has little.
func (d *Daemon) spoolDir() string { return filepath.Join(d.cfg.StateDir, "spool") }

// buildManager builds the engine and the API on top of it.
func (d *Daemon) buildManager(ctx context.Context) error {
	db, err := store.Open(ctx, d.cfg.Database)
	if err != nil {
		return err
	}
	d.parts.push(db.Close)
	if d.keys, err = auth.Open(ctx, db, auth.Options{Log: d.log, Usable: d.publish}); err != nil {
		return err
	}
	d.parts.push(d.keys.Close)
	images, err := image.Open(image.Options{
		Dir: d.cfg.ImageDir, MaxBytes: d.cfg.ImageMaxBytes, Insecure: d.cfg.InsecureRegistries,
		InUse: d.imagesInUse, Proxy: http.ProxyFromEnvironment, HostCredentials: true, Logger: d.log,
	})
	if err != nil {
		return err
	}
	d.parts.push(images.Close)
	d.metrics = metrics.New(buildinfo.Version())
	driver := qemu.New(qemu.Options{Binary: d.cfg.QEMU, Log: d.log})
	lifetime, end := context.WithCancel(context.Background())
	d.parts.push(func() error { end(); return nil })
	guests := guest.New(lifetime, d.log)
	network := d.guardNetwork()
	kernels := kernel.NewStore(d.cfg.KernelDir(), d.cfg.InitPath())

	d.manager, err = machine.NewManager(machine.Config{
		Store: d.metrics.Store(db), Driver: driver, Guests: guests, Images: images, Disks: ext4.Disks{},
		Kernels: configuredKernel{kernels, d.cfg.Kernel}, Log: d.log, Observer: d.metrics,
		HostID: hostID(), StateDir: d.cfg.StateDir, RunDir: d.cfg.RunDir, UIDBase: int(d.cfg.UIDBase),
		RootfsPath: d.cfg.Rootfs, KernelArgs: d.cfg.KernelArgs, AllowedDirs: d.cfg.AllowedDirs,
		Limits:      limits(d.cfg),
		BootTimeout: d.cfg.BootTimeout.Duration(), StopGrace: d.cfg.StopGrace.Duration(), PortForwards: true,
	})
	if err != nil {
		return err
	}
	d.parts.push(d.closeManager)
	d.idempotency = idempotency.NewKeeper(db, idempotency.DefaultBounds(), d.log)
	d.api, err = httpapi.New(httpapi.Config{
		Machines: d.manager, Images: imageCache{images}, Keys: d.keys, Log: d.log, Observer: d.metrics, Runtime: driver.Name(), Idempotency: d.idempotency,
		KernelPath: d.kernelPath(kernels), RootfsPath: d.cfg.Rootfs, SpoolDir: d.spoolDir(), NoNetwork: network,
		MaxExecs: d.cfg.MaxExecs, KeyMaxExecs: d.cfg.KeyMaxExecs, MaxPulls: d.cfg.MaxPulls, KeyMaxPulls: d.cfg.KeyMaxPulls,
		FileMaxSize: d.cfg.FileMaxSize, FileTimeout: d.cfg.FileTimeout.Duration(),
		ExecDefaultTimeout: d.cfg.ExecTimeout.Duration(), ExecMaxTimeout: d.cfg.ExecMaxTimeout.Duration(),
		CORSOrigins:   d.cfg.CORSOrigins,
		ExecMaxOutput: d.cfg.ExecMaxOutput, ExecGrace: d.cfg.ExecGrace.Duration(),
		Ready: func(ctx context.Context) error { return ready(ctx, d.needs(driver, kernels)) },
	})
	if err != nil {
		return err
	}
	d.parts.push(func() error { d.api.Close(); return nil })
	return d.registerSources(db, images, guests)
}

// imagesInUse is asked by the image store, which is older than the manager.
func (d *Daemon) imagesInUse() map[string]bool {
	if d.manager == nil {
		return nil
	}
	return d.manager.InUse()
}

func (d *Daemon) closeManager() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	return d.manager.Close(ctx)
}

// kernelPath is what machines without a kernel of their own boot, for display.
func (d *Daemon) kernelPath(kernels *kernel.Store) string {
	if d.cfg.Kernel != "" {
		return d.cfg.Kernel
	}
	if k, err := kernels.Installed(); err == nil {
		return k.Path
	}
	return ""
}

// configuredKernel boots the operator's kernel where the machine names none.
type configuredKernel struct {
	machine.Kernels
	path string
}

func (k configuredKernel) Boot(ctx context.Context, path string) (machine.BootFiles, error) {
	if path == "" {
		path = k.path
	}
	return k.Kernels.Boot(ctx, path)
}

// hostID names this host in records: the machine id that systemd keeps, or the
// host's name.
func hostID() string {
	if raw, err := os.ReadFile("/etc/machine-id"); err == nil && len(raw) >= 32 {
		return string(raw[:32])
	}
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
