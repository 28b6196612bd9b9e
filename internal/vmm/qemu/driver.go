package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Options are the settings of a Driver; the zero value is usable.
type Options struct {
	Binary string       // path of the emulator; "" looks it up
	Log    *slog.Logger // default: discards
}

// Driver implements machine.Driver.
type Driver struct {
	opts Options
	arch arch
	tsc  *tscClock

	mu      sync.Mutex
	version string // of versionOf
	probed  string
}

var _ machine.Driver = (*Driver)(nil)

// New returns a driver for guests of this host's architecture.
func New(opts Options) *Driver {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{opts: opts, arch: arches[runtime.GOARCH], tsc: startTSCClock()}
}

// Name returns "qemu".
func (d *Driver) Name() string { return "qemu" }

// Capabilities says how guests are accelerated here, and fails with
// QEMU_NOT_FOUND where there is no QEMU.
func (d *Driver) Capabilities(ctx context.Context) (machine.Capabilities, error) {
	binary, err := d.binary()
	if err != nil {
		return machine.Capabilities{}, err
	}
	version, err := d.versionOf(ctx, binary)
	if err != nil {
		return machine.Capabilities{}, err
	}
	accel, reason := accelerator(runtime.GOARCH, "/dev/kvm", "/proc/cpuinfo")
	return machine.Capabilities{
		Accel: accel, AccelReason: reason, Pause: true, PortForwards: true, Version: version,
	}, nil
}

func (d *Driver) binary() (string, error) {
	if d.arch.binary == "" {
		return "", errdefs.New(errdefs.Unsupported, "QEMU_NOT_FOUND", "no QEMU driver for %s", runtime.GOARCH)
	}
	name := d.arch.binary
	if d.opts.Binary != "" {
		name = d.opts.Binary
	}
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.Unsupported, "QEMU_NOT_FOUND", "%s is not installed (Debian: apt-get install %s)", d.arch.binary, d.arch.debian)
	}
	return path, nil
}

var versionPattern = regexp.MustCompile(`version (\d+(?:\.\d+)+)`)

// versionOf asks the emulator once for its version.
func (d *Driver) versionOf(ctx context.Context, binary string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.probed == binary {
		return d.version, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--version")
	cmd.Env = environment()
	out, err := cmd.Output()
	m := versionPattern.FindSubmatch(out)
	if err == nil && m == nil {
		err = errors.New("no version in its output")
	}
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.Unsupported, "QEMU_NOT_FOUND", "%s does not run", d.arch.binary)
	}
	d.probed, d.version = binary, string(m[1])
	return d.version, nil
}

// Prepare checks cfg and makes the machine's run directory. One that an ended
// VMM left is made anew; one whose VMM lives is a conflict.
func (d *Driver) Prepare(ctx context.Context, cfg machine.VMConfig) error {
	if err := d.check(cfg); err != nil {
		return err
	}
	if _, err := d.binary(); err != nil {
		return err
	}
	live, err := findVMM(cfg)
	if err != nil {
		return err
	}
	if len(live) > 0 {
		return errdefs.New(errdefs.Conflict, "VMM_RUNNING", "machine %s still has a VMM", cfg.ID)
	}
	if err := os.RemoveAll(cfg.RunDir); err != nil {
		return fmt.Errorf("clear run directory of %s: %w", cfg.ID, err)
	}
	if err := os.MkdirAll(cfg.RunDir, 0o700); err != nil {
		return fmt.Errorf("make run directory of %s: %w", cfg.ID, err)
	}
	return nil
}

// Adopt takes over the VMM that an earlier daemon booted with cfg.
func (d *Driver) Adopt(ctx context.Context, cfg machine.VMConfig, ref machine.ProcessRef) (machine.VM, error) {
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	vm, err := d.adopt(ctx, cfg, ref)
	if err != nil {
		return nil, err
	}
	d.opts.Log.Info("VMM adopted", "machine", cfg.ID, "pid", ref.PID)
	return vm, nil
}

// Release ends a VMM that still belongs to the machine and removes the run
// directory.
func (d *Driver) Release(ctx context.Context, cfg machine.VMConfig) error {
	if err := checkRunDir(cfg); err != nil {
		return err
	}
	if err := killVMMs(ctx, cfg); err != nil {
		return fmt.Errorf("release %s: %w", cfg.ID, err)
	}
	if err := os.RemoveAll(cfg.RunDir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release %s: %w", cfg.ID, err)
	}
	return nil
}

// environment is all that QEMU gets of ours: its messages in plain English.
func environment() []string { return []string{"LC_ALL=C"} }
