package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/console"
	"github.com/hyperfleet/hyperfleet/internal/vmm/process"
)

// consoleLimit bounds the record of a console, in bytes.
const consoleLimit = 1 << 20

// Boot starts QEMU and lets its vCPUs run once the console is connected.
func (d *Driver) Boot(ctx context.Context, cfg machine.VMConfig) (machine.VM, error) {
	if err := d.check(cfg); err != nil {
		return nil, err
	}
	if _, err := loadRecord(cfg.RunDir); !errors.Is(err, fs.ErrNotExist) {
		return nil, errdefs.Wrap(err, errdefs.Conflict, "VMM_RUNNING", "machine %s has been booted already", cfg.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, monitorTimeout)
	defer cancel()
	b := &boot{driver: d, cfg: cfg}
	vm, err := b.run(ctx)
	if err != nil {
		err = b.explain(err)
		if undoErr := b.undo(); undoErr != nil {
			d.opts.Log.Error("VMM boot not undone", "machine", cfg.ID, "err", undoErr)
		}
		return nil, err
	}
	d.opts.Log.Info("VMM started", "machine", cfg.ID, "pid", vm.Process().PID)
	return vm, nil
}

// boot is one boot under way: what it has acquired so far, and how to give it
// back.
type boot struct {
	driver *Driver
	cfg    machine.VMConfig
	undos  []func() error
	output *os.File
	proc   *process.Process
	vm     *vm
}

func (b *boot) onFailure(f func() error) { b.undos = append(b.undos, f) }

// undo gives everything back, the last first.
func (b *boot) undo() error {
	var errs []error
	for _, f := range slices.Backward(b.undos) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (b *boot) run(ctx context.Context) (*vm, error) {
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	if err := b.connect(ctx); err != nil {
		return nil, err
	}
	m, err := dialMonitor(ctx, b.cfg.RunDir)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := b.forward(m); err != nil {
		return nil, err
	}
	if err := m.execute("cont", nil, nil); err != nil {
		return nil, err
	}
	return b.vm, nil
}

// start starts QEMU with its vCPUs stopped, and records it.
func (b *boot) start(ctx context.Context) error {
	binary, err := b.driver.binary()
	if err != nil {
		return err
	}
	accel, _ := accelerator(runtime.GOARCH, "/dev/kvm", "/proc/cpuinfo")
	kernelArgs, err := b.kernelArgs(ctx, accel)
	if err != nil {
		return err
	}
	if b.output, err = newOutput(); err != nil {
		return err
	}
	b.onFailure(func() error {
		b.output.Close()
		return nil
	})

	in := &inheritance{}
	defer in.close()
	b.onFailure(func() error { return removeSockets(b.cfg.RunDir) })
	fds, err := inherit(in, b.cfg, b.output)
	if err != nil {
		return fmt.Errorf("open files of %s: %w", b.cfg.ID, err)
	}
	b.proc, err = process.Start(process.Command{
		Path:  binary,
		Argv:  b.driver.arch.argv(b.cfg, accel, kernelArgs, fds),
		Env:   environment(),
		Files: in.files,
		UID:   b.cfg.UID, GID: b.cfg.GID,
	})
	if err != nil {
		return err
	}
	b.onFailure(func() error { return end(b.proc) })
	b.onFailure(func() error { return remove(filepath.Join(b.cfg.RunDir, recordName)) })
	return record{Process: b.proc.Identity()}.save(b.cfg.RunDir)
}

func (b *boot) kernelArgs(ctx context.Context, accel string) (string, error) {
	var tsc uint32
	if b.driver.arch.tscHint && accel == accelTCG {
		var err error
		if tsc, err = b.driver.tsc.kHz(ctx); err != nil {
			return "", fmt.Errorf("measure TSC: %w", err)
		}
	}
	return b.driver.arch.commandLine(b.cfg, tsc)
}

// connect takes the console and starts to watch the process.
func (b *boot) connect(ctx context.Context) error {
	rec, err := console.OpenRecord(b.cfg.RunDir, consoleLimit)
	if err != nil {
		return err
	}
	b.onFailure(func() error { return console.Remove(b.cfg.RunDir) })
	conn, err := dial(ctx, b.cfg.RunDir, consoleSocket)
	if err != nil {
		return errors.Join(err, rec.Close())
	}
	b.vm = watch(b.cfg, b.proc, rec, conn, b.output)
	b.onFailure(func() error {
		return errors.Join(b.vm.Kill(context.Background()), b.vm.Close())
	})
	return nil
}

// forward leads ports of the host's loopback to the guest's.
func (b *boot) forward(m *monitor) error {
	if b.cfg.Network == nil || len(b.cfg.Network.Forwards) == 0 {
		return nil
	}
	forwards, err := addForwards(m, b.cfg.Network.Forwards)
	if err != nil {
		return err
	}
	b.vm.forwards = forwards
	return record{Process: b.proc.Identity(), Forwards: forwards}.save(b.cfg.RunDir)
}

// explain turns a failure of QEMU itself into one that tells its reason.
func (b *boot) explain(err error) error {
	if b.proc == nil || errdefs.KindOf(err) != errdefs.Internal {
		return err
	}
	line := ""
	if b.vm != nil && isHangup(err) {
		b.vm.awaitEnd(2 * time.Second) // it has hung up, so it is about to be gone
		line = b.vm.Exit().Console
	}
	if line == "" {
		line = console.LastLine(readOutput(b.output))
	}
	switch {
	case line != "":
		return errdefs.Wrap(err, errdefs.Runtime, "VMM_BOOT_FAILED", "the VMM did not start: %s", line)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return errdefs.Wrap(err, errdefs.Runtime, "VMM_BOOT_FAILED", "the VMM did not answer in time")
	case errors.Is(err, context.Canceled):
		return err
	}
	return errdefs.Wrap(err, errdefs.Runtime, "VMM_BOOT_FAILED", "the VMM did not start")
}

// end ends a process, unless its VM has done so and closed it.
func end(p *process.Process) error {
	defer p.Close()
	err := p.Kill()
	if err == nil {
		_, err = p.Wait(context.Background())
	}
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

func removeSockets(dir string) error {
	var errs []error
	for _, name := range []string{agentSocket, consoleSocket, monitorSocket} {
		errs = append(errs, remove(filepath.Join(dir, name)))
	}
	return errors.Join(errs...)
}

// remove removes a file that may not be there.
func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// addForwards asks QEMU for each forward. A port of 0 is chosen here: one that
// was free a moment ago, until QEMU could take it.
func addForwards(m *monitor, want []machine.PortForward) ([]machine.PortForward, error) {
	got := make([]machine.PortForward, 0, len(want))
	for _, f := range want {
		port, err := addForward(m, f)
		if err != nil {
			return nil, err
		}
		got = append(got, machine.PortForward{GuestPort: f.GuestPort, HostPort: port})
	}
	return got, nil
}

func addForward(m *monitor, f machine.PortForward) (uint16, error) {
	if f.HostPort != 0 {
		ok, err := tryForward(m, f.HostPort, f.GuestPort)
		if err == nil && !ok {
			err = errdefs.New(errdefs.Conflict, "PORT_IN_USE", "port %d of the host is in use", f.HostPort)
		}
		return f.HostPort, err
	}
	const tries = 16
	for range tries {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		if ok, err := tryForward(m, port, f.GuestPort); ok || err != nil {
			return port, err
		}
	}
	return 0, errdefs.New(errdefs.Exhausted, "PORT_IN_USE", "no free port on the host's loopback for port %d", f.GuestPort)
}

// tryForward reports whether QEMU could listen on the port. The command has no
// machine-readable form: what it prints is a complaint.
func tryForward(m *monitor, host, guest uint16) (bool, error) {
	args := map[string]string{
		"command-line": fmt.Sprintf("hostfwd_add net0 tcp:127.0.0.1:%d-%s:%d", host, guestAddress, guest),
	}
	var complaint string
	if err := m.execute("human-monitor-command", args, &complaint); err != nil {
		return false, err
	}
	return complaint == "", nil
}

// freePort returns a port that nobody listens on now.
func freePort() (uint16, error) {
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, fmt.Errorf("find free port: %w", err)
	}
	port := ln.Addr().(*net.TCPAddr).AddrPort().Port()
	if err := ln.Close(); err != nil {
		return 0, fmt.Errorf("find free port: %w", err)
	}
	return port, nil
}
