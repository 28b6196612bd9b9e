// Package doctor tells what a host can and cannot do for machines, and how to
// mend it. It changes nothing. What it asks the host is in Host, so that a test
// can be any host; package daemon says what this program's configuration is.
package doctor

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Level is how a check ended.
type Level string

// The levels. Only Fail means that machines cannot run.
const (
	OK   Level = "ok"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Result is what one check found, and what to do unless it is OK.
type Result struct {
	Name   string
	Level  Level
	Reason string
	Fix    string
}

// Config is what the checks need to know of the daemon's configuration.
type Config struct {
	StateDir, RunDir, Socket, Address   string
	QEMU, KernelPath, KernelError, Init string // KernelError: why there is no kernel, "" for none
	KernelFault                         string // why VMMs cannot load the one at KernelPath, "" when they can
	Version                             string // of this program
	SocketLimit                         int    // bytes that a socket's path may have
}

// Host is what the checks ask. Every field must be set; Local sets them all.
type Host struct {
	ReadFile  func(path string) (string, error)
	LookPath  func(program string) (string, error)
	Output    func(ctx context.Context, program string, args ...string) (string, error)
	OpenKVM   func() error
	UID       func() int
	Folder    func(path string) (mode uint32, owner int, err error)
	FreeBytes func(path string) (uint64, error)
	Reflink   func(dir string) error
	Listen    func(address string) error
	Daemon    func(ctx context.Context) (version string, err error)
	Nftables  func() error
	OpenFiles func() uint64
}

// Check runs every check, in the order in which they are read.
func Check(ctx context.Context, c Config, h Host) []Result {
	checks := []struct {
		name string
		run  func(context.Context, Config, Host) Result
	}{
		{"kvm", kvm}, {"qemu", qemu}, {"firecracker", firecracker}, {"kernel", guestKernel}, {"init", guestInit},
		{"cgroup", cgroup}, {"privileges", privileges}, {"network", network}, {"state folder", stateFolder},
		{"run folder", runFolder}, {"disk space", diskSpace}, {"reflink", reflink}, {"daemon", daemonAnswers},
		{"port", port}, {"socket path", socketPath}, {"memory", memory}, {"open files", openFiles}, {"apt", apt}, {"clock", clock},
	}
	results := make([]Result, len(checks))
	for i, check := range checks {
		results[i] = check.run(ctx, c, h)
		results[i].Name = check.name
	}
	return results
}

func ok(format string, args ...any) Result {
	return Result{Level: OK, Reason: fmt.Sprintf(format, args...)}
}

func warn(fix, format string, args ...any) Result {
	return Result{Level: Warn, Fix: fix, Reason: fmt.Sprintf(format, args...)}
}

func fail(fix, format string, args ...any) Result {
	return Result{Level: Fail, Fix: fix, Reason: fmt.Sprintf(format, args...)}
}

// kvm is usable when it opens and the processor says that it virtualizes: some
// hosts have a software KVM (PVM) on which ordinary guests hang.
func kvm(_ context.Context, _ Config, h Host) Result {
	if err := h.OpenKVM(); err != nil {
		return warn("enable virtualization in the firmware or ask for nested virtualization; guests run in software until then", "/dev/kvm does not open: %v", err)
	}
	info, err := h.ReadFile("/proc/cpuinfo")
	if err != nil {
		return warn("mount /proc", "the processor is unknown: %v", err)
	}
	arm := strings.Contains(info, "CPU implementer") // whose KVM needs no flag
	for flag := range strings.FieldsSeq(info) {
		if arm || flag == "vmx" || flag == "svm" {
			return ok("/dev/kvm opens and the processor virtualizes")
		}
	}
	return warn("guests run in software; use a host with vmx or svm for speed", "/dev/kvm opens, but the processor has neither vmx nor svm: a software KVM (PVM) that guests hang on")
}

func qemu(ctx context.Context, c Config, h Host) Result {
	const fix = "apt-get install qemu-system-x86 (qemu-system-arm on arm64), or set HYPERFLEET_QEMU_BIN"
	path, err := h.LookPath(c.QEMU)
	if err != nil {
		return fail(fix, "QEMU is not found: %v", err)
	}
	out, err := h.Output(ctx, path, "--version")
	if err != nil {
		return fail(fix, "%s does not run: %v", path, err)
	}
	line, _, _ := strings.Cut(out, "\n")
	return ok("%s: %s", path, line)
}

// firecracker is for later: machines run in QEMU.
func firecracker(ctx context.Context, _ Config, h Host) Result {
	const fix = "nothing needs it yet; install firecracker and jailer of one release"
	var versions []string
	for _, program := range []string{"firecracker", "jailer"} {
		path, err := h.LookPath(program)
		if err != nil {
			return warn(fix, "%s is not found", program)
		}
		out, err := h.Output(ctx, path, "--version")
		if err != nil {
			return warn(fix, "%s does not run: %v", path, err)
		}
		line, _, _ := strings.Cut(out, "\n")
		words := strings.Fields(line)
		if len(words) == 0 {
			return warn(fix, "%s tells no version", path)
		}
		versions = append(versions, words[len(words)-1])
	}
	if versions[0] != versions[1] {
		return warn(fix, "firecracker is %s and jailer %s", versions[0], versions[1])
	}
	return ok("firecracker and jailer %s", versions[0])
}

func guestKernel(_ context.Context, c Config, _ Host) Result {
	if c.KernelError != "" {
		return fail("hyperfleet setup", "no guest kernel: %s", c.KernelError)
	}
	if c.KernelFault != "" {
		return warn("hyperfleet setup --kernel FILE unpacks a compressed one", "%s is not what VMMs load: %s", c.KernelPath, c.KernelFault)
	}
	return ok("%s", c.KernelPath)
}

func guestInit(ctx context.Context, c Config, h Host) Result {
	const fix = "install hyperfleet-init of the same release beside hyperfleet, or set HYPERFLEET_INIT_PATH"
	if _, err := h.LookPath(c.Init); err != nil {
		return fail(fix, "hyperfleet-init is not found: %v", err)
	}
	out, err := h.Output(ctx, c.Init, "--version")
	if err != nil {
		return warn(fix, "%s tells no version: %v", c.Init, err)
	}
	words := strings.Fields(out)
	if len(words) == 0 || words[len(words)-1] != c.Version {
		return warn(fix, "%s is %s, this program is %s", c.Init, strings.TrimSpace(out), c.Version)
	}
	return ok("%s", c.Init)
}

func cgroup(_ context.Context, _ Config, h Host) Result {
	have, err := h.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		return warn("boot with systemd.unified_cgroup_hierarchy=1", "there is no cgroup v2: %v", err)
	}
	for _, want := range []string{"cpu", "memory", "pids"} {
		if !strings.Contains(" "+strings.TrimSpace(have)+" ", " "+want+" ") {
			return warn("enable it in the parent's cgroup.subtree_control", "cgroup v2 lacks the controller %s", want)
		}
	}
	return ok("cgroup v2 with %s", strings.TrimSpace(have))
}

// capNetAdmin is CAP_NET_ADMIN's bit, of linux/capability.h.
const capNetAdmin = 1 << 12

func privileges(_ context.Context, _ Config, h Host) Result {
	const fix = "run the daemon as root, or give it CAP_NET_ADMIN, CAP_SETUID, CAP_SETGID and CAP_CHOWN"
	status, err := h.ReadFile("/proc/self/status")
	if err != nil {
		return warn(fix, "capabilities are unknown: %v", err)
	}
	_, rest, _ := strings.Cut(status, "CapEff:")
	word, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
	caps, err := strconv.ParseUint(word, 16, 64)
	switch {
	case err != nil:
		return warn(fix, "capabilities are unknown: %v", err)
	case h.UID() != 0:
		return warn(fix+", or set HYPERFLEET_UID_BASE=0", "not root: VMMs cannot have users of their own")
	case caps&capNetAdmin == 0:
		return warn(fix, "root without CAP_NET_ADMIN: machines get no network")
	}
	return ok("root with CAP_NET_ADMIN")
}

func network(_ context.Context, _ Config, h Host) Result {
	if err := h.Nftables(); err != nil {
		return warn("load nf_tables and run as root; machines get no network until then", "nftables does not answer: %v", err)
	}
	return ok("nftables answers")
}
