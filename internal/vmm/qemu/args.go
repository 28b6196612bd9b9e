package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// arch is what differs between host architectures. Guests have the host's.
type arch struct {
	binary  string
	debian  string // package that holds it
	machine string
	pci     string // what machine needs to have a PCI bus
	console string
	tcgCPU  string // the emulated CPU's model
	tscHint bool   // the kernel must be told its TSC frequency under TCG
}

var arches = map[string]arch{
	"amd64": {
		binary: "qemu-system-x86_64", debian: "qemu-system-x86",
		machine: "microvm,acpi=on,usb=off,dump-guest-core=off", pci: ",pcie=on", console: "ttyS0", tscHint: true,
		// Without "enhanced rep movsb" kernel and C libraries clear and copy memory
		// by words: TCG executes such an instruction byte by byte. A boot takes
		// some 8 % less.
		tcgCPU: "max,erms=off",
	},
	"arm64": {
		binary: "qemu-system-aarch64", debian: "qemu-system-arm",
		machine: "virt,usb=off,dump-guest-core=off", console: "ttyAMA0", tcgCPU: "max",
	},
}

// guestAddress is what QEMU's user-mode network gives its only guest.
const guestAddress = "10.0.2.15"

// agentPort is the name of the virtio-serial port of the guest's agent.
const agentPort = "hyperfleet.agent"

// descriptors are the numbers of what a VMM inherits.
type descriptors struct {
	kernel, initrd          int // initrd is 0 when there is none
	agent, console, monitor int
	drives                  []int
}

// commandLine is the kernel's: ours first, so that the caller's win.
func (a arch) commandLine(cfg machine.VMConfig, tscKHz uint32) (string, error) {
	if err := checkKernelArgs(cfg.KernelArgs); err != nil {
		return "", err
	}
	args := []string{
		"console=" + a.console,
		"quiet",                // each byte of console output is an exit
		"cryptomgr.notests",    // saves 0.2 s
		"reboot=t", "panic=-1", // both end QEMU, because of -no-reboot
		"hyperfleet.agent=serial:" + agentPort,
	}
	if tscKHz != 0 {
		// "reliable" turns off the watchdog that otherwise takes a late timer
		// interrupt for a bad TSC: the guest then loses a fifth of its time.
		args = append(args, "tsc_early_khz="+strconv.FormatUint(uint64(tscKHz), 10), "tsc=reliable")
	}
	if isSmall(cfg) {
		args = append(args, smallArgs...)
	}
	if cfg.InitrdPath == "" && len(cfg.Drives) > 0 {
		args = append(args, "root=/dev/vda", "init=/init", mountMode(cfg.Drives[0]))
	}
	if extra := strings.TrimSpace(cfg.KernelArgs); extra != "" {
		args = append(args, extra)
	}
	line := strings.Join(args, " ")
	if len(line) > maxKernel {
		return "", invalid("kernel command line of %d bytes: at most %d", len(line), maxKernel)
	}
	return line, nil
}

func mountMode(d machine.Drive) string {
	if d.ReadOnly {
		return "ro"
	}
	return "rw"
}

// argv is QEMU's command line. Every value in it is ours or was checked.
func (a arch) argv(cfg machine.VMConfig, accel, kernelArgs string, fds descriptors) []string {
	bus := a.bus(cfg)
	argv := []string{
		a.binary,
		"-name", vmName(cfg.ID),
		"-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot",
		"-S", // until the console is connected
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-machine", bus.machine,
		"-smp", strconv.Itoa(cfg.VCPUs),
		"-m", "size=" + strconv.Itoa(cfg.MemMiB) + "M",
		"-kernel", descriptorPath(fds.kernel),
		"-append", kernelArgs,
	}
	if accel == accelKVM {
		argv = append(argv, "-accel", "kvm", "-cpu", "host")
	} else {
		argv = append(argv, "-accel", "tcg,thread=multi", "-cpu", a.tcgCPU)
	}
	if fds.initrd != 0 {
		argv = append(argv, "-initrd", descriptorPath(fds.initrd))
	}
	argv = append(argv, channels(fds)...)
	argv = append(argv, drives(bus, cfg.Drives, fds.drives)...)
	argv = append(argv,
		"-object", "rng-builtin,id=rng0",
		"-device", bus.device("virtio-rng")+",rng=rng0",
		// Each port has two queues, and port 0 is a console's.
		"-device", bus.device("virtio-serial")+",id=serial0,max_ports=2",
		"-device", "virtserialport,bus=serial0.0,nr=1,chardev=agent,name="+agentPort,
	)
	return append(argv, network(bus, cfg.Network)...)
}

// vmName marks the process as this machine's, see findVMM.
func vmName(id machine.ID) string { return "guest=hyperfleet-" + string(id) }

// descriptorPath reopens an inherited file, for the options that take no
// descriptor.
func descriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func channels(fds descriptors) []string {
	socket := func(id string, fd int) string {
		return fmt.Sprintf("socket,id=%s,fd=%d,server=on,wait=off", id, fd)
	}
	return []string{
		"-chardev", socket("monitor", fds.monitor), "-mon", "chardev=monitor,mode=control",
		"-chardev", socket("console", fds.console), "-serial", "chardev:console",
		"-chardev", socket("agent", fds.agent),
	}
}

// drives attaches raw images by descriptor. The page cache is used and the
// guest's flushes reach the disk; a discard makes a hole in a writable image.
//
// QEMU chooses the virtio-mmio slots: it fills them in the order in which guests
// look for devices, and leaves for last the one whose interrupt (pin 0 of
// microvm's second IOAPIC) Linux was seen never to get.
func drives(bus bus, list []machine.Drive, fds []int) []string {
	var argv []string
	for i, d := range list {
		mode := "read-only=off,discard=unmap"
		if d.ReadOnly {
			mode = "read-only=on"
		}
		// A full host disk is an I/O error to the guest, which its file system
		// knows how to take; by default QEMU would stop the VM without a word.
		const onError = "rerror=report,werror=report"
		const cache = "cache.direct=off,cache.no-flush=off"
		argv = append(argv,
			"-add-fd", fmt.Sprintf("fd=%d,set=%d", fds[i], i),
			"-blockdev", fmt.Sprintf("driver=file,node-name=file%d,filename=/dev/fdset/%d,auto-read-only=off,%s,%s", i, i, mode, cache),
			"-blockdev", fmt.Sprintf("driver=raw,node-name=drive%d,file=file%d,auto-read-only=off,%s,%s", i, i, mode, cache),
			"-device", fmt.Sprintf("%s,drive=drive%d,serial=%s,%s", bus.device("virtio-blk"), i, d.ID, onError),
		)
	}
	return argv
}

// network is QEMU's user-mode network. Forwards are added once it runs.
func network(bus bus, n *machine.NetworkConfig) []string {
	if n == nil {
		return nil
	}
	device := bus.device("virtio-net") + ",netdev=net0"
	if bus.pci {
		device += ",romfile=" // it is nothing to boot from
	}
	if len(n.MAC) != 0 {
		device += ",mac=" + n.MAC.String()
	}
	return []string{
		"-netdev", "user,id=net0,net=10.0.2.0/24,dhcpstart=" + guestAddress + ",ipv6=off",
		"-device", device,
	}
}
