package qemu

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/process"
)

// fakeBinary is this test binary where the VMM's user can execute it.
var fakeBinary = sync.OnceValues(func() ([]byte, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(self)
})

// fake returns a driver of the fake QEMU and a machine for it.
func fake(t *testing.T, mode string) (*Driver, machine.VMConfig) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // the VMM's user executes a file in it
	image, err := fakeBinary()
	must(t, err)
	binary := filepath.Join(dir, "qemu")
	must(t, os.WriteFile(binary, image, 0o755))
	kernel := filepath.Join(dir, "kernel")
	must(t, os.WriteFile(kernel, []byte("kernel"), 0o600))
	id := machine.NewID()
	cfg := machine.VMConfig{
		ID: id, RunDir: filepath.Join(dir, "machines", string(id)),
		VCPUs: 1, MemMiB: 64, KernelPath: kernel, InitrdPath: kernel,
		Drives:     []machine.Drive{{ID: "base", Path: kernel, ReadOnly: true}, {ID: "disk", Path: kernel}},
		Network:    &machine.NetworkConfig{Forwards: []machine.PortForward{{GuestPort: 80}}},
		KernelArgs: "fake=" + mode,
	}
	if os.Geteuid() == 0 {
		cfg.UID, cfg.GID = 65534, 65534
	}
	return New(Options{Binary: binary}), cfg
}

// TestBootFails fails each step of a boot in turn: the error says why, and
// nothing is left.
func TestBootFails(t *testing.T) {
	block := func(name string) func(machine.VMConfig) error {
		return func(c machine.VMConfig) error { return os.MkdirAll(filepath.Join(c.RunDir, name, "full"), 0o700) }
	}
	for _, c := range []struct {
		name, mode string
		spoil      func(machine.VMConfig) error
		code, text string
		stuck      bool // what the test has put there cannot be removed
	}{
		{name: "no run directory", spoil: func(c machine.VMConfig) error { return os.Remove(c.RunDir) }, code: "INTERNAL_ERROR"},
		{name: "agent socket", spoil: block(agentSocket), code: "INTERNAL_ERROR", text: "agent.sock", stuck: true},
		{name: "console socket", spoil: block(consoleSocket), code: "INTERNAL_ERROR", text: "console.sock", stuck: true},
		{name: "monitor socket", spoil: block(monitorSocket), code: "INTERNAL_ERROR", text: "monitor.sock", stuck: true},
		{name: "record", spoil: block(recordName + ".new"), code: "VMM_BOOT_FAILED", text: "record"},
		{name: "console record", spoil: block("console.log"), code: "VMM_BOOT_FAILED", text: "console record"},
		{name: "exits at once", mode: "exits", code: "VMM_BOOT_FAILED", text: "could not load kernel: wrong magic"},
		{name: "does not greet", mode: "mute", code: "VMM_BOOT_FAILED", text: "did not answer in time"},
		{name: "is no QEMU", mode: "garbage", code: "VMM_BOOT_FAILED"},
		{name: "never ends its line", mode: "endless", code: "VMM_BOOT_FAILED"},
		{name: "dies before it greets", mode: "hangs up", code: "VMM_BOOT_FAILED", text: "internal error"},
		{name: "refuses the handshake", mode: "qmp_capabilities refused", code: "VMM_BOOT_FAILED"},
		{name: "has no port", mode: "ports taken", code: "PORT_IN_USE"},
		{name: "dies on a forward", mode: "human-monitor-command kills", code: "VMM_BOOT_FAILED", text: "fatal error in human-monitor-command"},
		{name: "does not go on", mode: "cont refused", code: "VMM_BOOT_FAILED"},
		{name: "dies when it goes on", mode: "cont kills", code: "VMM_BOOT_FAILED", text: "fatal error in cont"},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			d, cfg := fake(t, c.mode)
			var log bytes.Buffer
			d.opts.Log = slog.New(slog.NewTextHandler(&log, nil))
			must(t, d.Prepare(t.Context(), cfg))
			if c.spoil != nil {
				must(t, c.spoil(cfg))
			}
			before, descriptors := list(t, cfg.RunDir), list(t, "/proc/self/fd")
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			_, err := d.Boot(ctx, cfg)
			if errdefs.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.text) {
				t.Errorf("boot gives %s: %v", errdefs.CodeOf(err), err)
			}
			if after := list(t, cfg.RunDir); !slices.Equal(before, after) {
				t.Errorf("run directory holds %v, held %v", after, before)
			}
			if after := list(t, "/proc/self/fd"); len(after) > len(descriptors) {
				t.Errorf("descriptors %v, were %v", after, descriptors)
			}
			if (log.Len() > 0) != c.stuck {
				t.Errorf("the log says %s", log.String())
			}
			requireReleased(t, d, cfg)
		})
	}
}

func TestBootAndRelease(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	d, cfg := fake(t, "none")
	cfg.Network.Forwards = append(cfg.Network.Forwards, machine.PortForward{GuestPort: 81, HostPort: 65000})
	must(t, d.Prepare(t.Context(), cfg))
	vm, err := d.Boot(t.Context(), cfg)
	must(t, err)
	defer vm.Close()
	f := vm.PortForwards()
	if len(f) != 2 || f[0].HostPort == 0 || f[1] != (machine.PortForward{GuestPort: 81, HostPort: 65000}) {
		t.Errorf("forwards are %v", f)
	}
	saved, err := loadRecord(cfg.RunDir)
	must(t, err)
	if !slices.Equal(saved.Forwards, f) || machine.ProcessRef(saved.Process) != vm.Process() {
		t.Errorf("record is %+v", saved)
	}
	requireReleased(t, d, cfg)
	<-vm.Done()
}

// TestReleaseFindsAnUnrecordedVMM: the daemon died between starting and
// recording it.
func TestReleaseFindsAnUnrecordedVMM(t *testing.T) {
	d, cfg := fake(t, "none")
	must(t, d.Prepare(t.Context(), cfg))
	vm, err := d.Boot(t.Context(), cfg)
	must(t, err)
	defer vm.Close()
	must(t, os.Remove(filepath.Join(cfg.RunDir, recordName)))
	if err := d.Prepare(t.Context(), cfg); errdefs.CodeOf(err) != "VMM_RUNNING" {
		t.Errorf("prepare gives %v", err)
	}
	requireReleased(t, d, cfg)
}

func TestReleaseOfNothing(t *testing.T) {
	d, cfg := fake(t, "none")
	requireReleased(t, d, cfg)
	if err := d.Release(t.Context(), machine.VMConfig{ID: cfg.ID, RunDir: "relative"}); err == nil {
		t.Error("a relative run directory is released")
	}
}

func TestPrepareClearsWhatAnEndedVMMLeft(t *testing.T) {
	d, cfg := fake(t, "none")
	must(t, os.MkdirAll(cfg.RunDir, 0o755))
	must(t, os.WriteFile(filepath.Join(cfg.RunDir, "console.log"), []byte("old"), 0o600))
	must(t, d.Prepare(t.Context(), cfg))
	if left := list(t, cfg.RunDir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	if info, err := os.Stat(cfg.RunDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode is %v: %v", info.Mode(), err)
	}
}

func requireReleased(t *testing.T, d *Driver, cfg machine.VMConfig) {
	t.Helper()
	for range 2 {
		must(t, d.Release(t.Context(), machine.VMConfig{ID: cfg.ID, RunDir: cfg.RunDir, UID: cfg.UID}))
	}
	if _, err := os.Stat(cfg.RunDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("run directory is left: %v", err)
	}
	left, err := process.Find(cfg.UID, func(argv []string) bool { return slices.Contains(argv, vmName(cfg.ID)) })
	must(t, err)
	if len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
