package machinetest

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// process is a VMM that runs; its fields are guarded by Host.mu, but for the
// channel.
type process struct {
	id     machine.ID
	ref    machine.ProcessRef
	cfg    machine.VMConfig
	paused bool
	exit   machine.Exit
	done   chan struct{}
	guest  *guestState

	console io.Writer // of the daemon that holds it; nil: nobody takes it
}

func (p *process) say(text string) {
	if p.console != nil {
		_, _ = io.WriteString(p.console, text)
	}
}

type driver struct{ d *Daemon }

func (driver) Name() string { return "fake" }

func (v driver) Capabilities(context.Context) (machine.Capabilities, error) {
	var caps machine.Capabilities
	err := v.d.call("driver.Capabilities", func() error {
		caps = machine.Capabilities{Accel: "tcg", AccelReason: "fake", Pause: true, PortForwards: true, Version: "1"}
		return nil
	})
	return caps, err
}

func (v driver) Prepare(_ context.Context, cfg machine.VMConfig) error {
	return v.d.call("driver.Prepare", func() error {
		h := v.d.host
		h.mu.Lock()
		defer h.mu.Unlock()
		if _, ok := h.runDirs[cfg.RunDir]; ok {
			return h.violation("prepare of machine %s: its run directory is there already", cfg.ID)
		}
		h.runDirs[cfg.RunDir] = string(cfg.ID)
		return nil
	})
}

func (v driver) Boot(_ context.Context, cfg machine.VMConfig) (machine.VM, error) {
	var vm *vm
	err := v.d.call("driver.Boot", func() error {
		h := v.d.host
		h.mu.Lock()
		defer h.mu.Unlock()
		switch {
		case h.runDirs[cfg.RunDir] != string(cfg.ID):
			return h.violation("boot of machine %s, which is not prepared", cfg.ID)
		case len(h.of(cfg.ID)) > 0:
			return h.violation("second VMM of machine %s", cfg.ID)
		case cfg.KernelPath == "" || len(cfg.Drives) != 2 || cfg.Drives[0].Path == "":
			return h.violation("boot of machine %s without kernel or drives", cfg.ID)
		}
		if _, err := os.Stat(cfg.Drives[1].Path); err != nil {
			return err
		}
		h.nextPID++
		p := &process{
			id: cfg.ID, cfg: cfg, done: make(chan struct{}), guest: newGuestState(h.behaviour[cfg.ID]),
			ref: machine.ProcessRef{PID: h.nextPID, StartTime: uint64(h.nextPID), Exe: "/usr/bin/fake-vmm", BootID: "boot"},
		}
		h.processes[p.ref.PID] = p
		vm = newVM(v.d, p, true)
		p.console = cfg.Console
		p.say("booting\n")
		return nil
	})
	if err != nil {
		if vm != nil { // it runs, and nobody has its handle: Release must find it
			vm.abandon()
		}
		return nil, err
	}
	return vm, nil
}

func (v driver) Adopt(_ context.Context, cfg machine.VMConfig, ref machine.ProcessRef) (machine.VM, error) {
	var vm *vm
	err := v.d.call("driver.Adopt", func() error {
		h := v.d.host
		h.mu.Lock()
		defer h.mu.Unlock()
		p := h.processes[ref.PID]
		if p == nil || p.ref != ref {
			return errdefs.New(errdefs.NotFound, "NOT_FOUND", "no process %d", ref.PID)
		}
		if p.id != cfg.ID || p.cfg.RunDir != cfg.RunDir || p.cfg.UID != cfg.UID {
			return h.violation("adopt of machine %s with another configuration", cfg.ID)
		}
		vm = newVM(v.d, p, false)
		p.console = cfg.Console
		return nil
	})
	if err != nil {
		if vm != nil {
			vm.abandon()
		}
		return nil, err
	}
	return vm, nil
}

func (v driver) Release(_ context.Context, cfg machine.VMConfig) error {
	return v.d.call("driver.Release", func() error {
		h := v.d.host
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, p := range h.of(cfg.ID) {
			h.end(p, machine.Exit{Known: true, Code: -1, Signal: "SIGKILL"})
		}
		delete(h.runDirs, cfg.RunDir)
		return nil
	})
}

// vm is one daemon's handle of a process.
type vm struct {
	d     *Daemon
	p     *process
	child bool // of this daemon: it learns the exit status
	close sync.Once
}

func newVM(d *Daemon, p *process, child bool) *vm {
	d.opened(1)
	return &vm{d: d, p: p, child: child}
}

func (v *vm) abandon() { v.close.Do(func() { v.d.opened(-1) }) }

func (v *vm) Process() machine.ProcessRef { return v.p.ref }

// PortForwards gives port n the host's 20000+n.
func (v *vm) PortForwards() []machine.PortForward {
	if v.p.cfg.Network == nil {
		return nil
	}
	forwards := slices.Clone(v.p.cfg.Network.Forwards)
	for i := range forwards {
		forwards[i].HostPort = 20000 + forwards[i].GuestPort
	}
	return forwards
}

// DialAgent is never needed: the fake sessions know their guests.
func (v *vm) DialAgent(context.Context) (net.Conn, error) {
	return nil, errdefs.New(errdefs.Unsupported, "UNSUPPORTED", "the fake VMM has no agent channel")
}

func (v *vm) Done() <-chan struct{} { return v.p.done }

func (v *vm) Exit() machine.Exit {
	v.d.host.mu.Lock()
	defer v.d.host.mu.Unlock()
	exit := v.p.exit
	if !v.child {
		exit = machine.Exit{Console: exit.Console, At: exit.At}
	}
	return exit
}

func (v *vm) Pause(context.Context) error  { return v.setPaused("vm.Pause", true) }
func (v *vm) Resume(context.Context) error { return v.setPaused("vm.Resume", false) }

func (v *vm) setPaused(op string, paused bool) error {
	return v.d.call(op, func() error {
		v.d.host.mu.Lock()
		defer v.d.host.mu.Unlock()
		if v.d.host.processes[v.p.ref.PID] != v.p {
			return errdefs.New(errdefs.Unavailable, "VMM_GONE", "the VMM has ended")
		}
		v.p.paused = paused
		return nil
	})
}

func (v *vm) Shutdown(context.Context) error {
	return errdefs.New(errdefs.Unsupported, "UNSUPPORTED", "no power button")
}

func (v *vm) Kill(context.Context) error {
	return v.d.call("vm.Kill", func() error {
		v.d.host.mu.Lock()
		defer v.d.host.mu.Unlock()
		v.d.host.end(v.p, machine.Exit{Known: true, Code: -1, Signal: "SIGKILL"})
		return nil
	})
}

// Console says "booting", and then what the exit's console line is.
func (v *vm) Console() (*os.File, error) {
	v.d.host.mu.Lock()
	defer v.d.host.mu.Unlock()
	path := filepath.Join(v.d.host.dir, "console-"+string(v.p.id))
	if err := os.WriteFile(path, []byte("booting\n"+v.p.exit.Console+"\n"), 0o600); err != nil {
		return nil, err
	}
	return os.Open(path)
}

func (v *vm) Close() error {
	v.abandon()
	return nil
}
