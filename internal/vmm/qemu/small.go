package qemu

import "github.com/hyperfleet/hyperfleet/internal/machine"

// smallMemory is the memory in MiB below which a guest is a small one: where an
// ordinary guest with a distribution's kernel still has more than half of it.
const smallMemory = 128

// isSmall reports whether a guest gets what costs it the least memory rather
// than the least time: a compressed initramfs, and virtio devices on a PCI bus.
// With virtio-mmio each of them offers queues of 1024 entries, and Linux fills
// those of the serial port with a page each; with PCI it is 128 and 32. See
// docs/adr/0005-small-guests.md.
func isSmall(cfg machine.VMConfig) bool {
	return cfg.MemMiB < smallMemory && cfg.InitrdPath != "" && cfg.SmallInitrdPath != ""
}

// smallArgs are for the kernels of distributions, of which a guest with 64 MiB
// has some 29 MiB left.
var smallArgs = []string{
	// No tracefs: its files cost 9 MB. Such a guest cannot be traced.
	"initcall_blacklist=tracer_init_tracefs",
	// Units of the size that is used: those of 2 MiB that the kernel would take
	// to save TLB entries cost 4 MB of memory cgroup's tables.
	"percpu_alloc=page",
	// A program may reserve more than there is. Every Go program does, and so
	// init: one table of its heap has 32 MiB, of which it touches some pages.
	"sysctl.vm.overcommit_memory=1",
	// The kernel sets that by mounting and unmounting proc, which waits for
	// RCU: on a busy host with one emulated vCPU that took up to 15 s.
	"rcupdate.rcu_expedited=1",
}

// initrdPath is "" when the first drive is booted directly.
func initrdPath(cfg machine.VMConfig) string {
	if isSmall(cfg) {
		return cfg.SmallInitrdPath
	}
	return cfg.InitrdPath
}

// bus is where a guest's virtio devices are.
type bus struct {
	machine string // value of -machine
	pci     bool
}

func (a arch) bus(cfg machine.VMConfig) bus {
	if isSmall(cfg) {
		return bus{machine: a.machine + a.pci, pci: true}
	}
	return bus{machine: a.machine}
}

// device is the name of a device model on this bus. On PCI it is the one
// without the interface of before virtio 1.0.
func (b bus) device(model string) string {
	if b.pci {
		return model + "-pci-non-transitional"
	}
	return model + "-device"
}
