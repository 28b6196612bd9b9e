package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// good is a host on which nothing is wrong.
func good() (Config, Host) {
	files := map[string]string{
		"/proc/cpuinfo": "flags : fpu vmx sse", "/sys/fs/cgroup/cgroup.controllers": "cpu io memory pids\n",
		"/proc/self/status": "Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n", "/proc/meminfo": "MemTotal: 1 kB\nMemAvailable:  8000000 kB\n",
		"/sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc\n",
	}
	c := Config{
		StateDir: "/s", RunDir: "/r", Socket: "/r/api.sock", Address: "127.0.0.1:3000", QEMU: "qemu",
		KernelPath: "/s/kernel/vmlinux", Init: "/i", Version: "v1", SocketLimit: 107,
	}
	return c, Host{
		ReadFile: func(path string) (string, error) {
			if text, ok := files[path]; ok {
				return text, nil
			}
			return "", fs.ErrNotExist
		},
		LookPath:  func(program string) (string, error) { return program, nil },
		Output:    func(context.Context, string, ...string) (string, error) { return "Program v1\n", nil },
		OpenKVM:   func() error { return nil },
		UID:       func() int { return 0 },
		Folder:    func(string) (uint32, int, error) { return 0o700, 0, nil },
		FreeBytes: func(string) (uint64, error) { return 1 << 40, nil },
		Reflink:   func(string) error { return nil },
		Listen:    func(string) error { return nil },
		Daemon:    func(context.Context) (string, error) { return "v1", nil },
		Nftables:  func() error { return nil },
		OpenFiles: func() uint64 { return 65536 },
	}
}

func TestCheckGoodHost(t *testing.T) {
	c, h := good()
	for _, r := range Check(t.Context(), c, h) {
		if r.Level != OK || r.Reason == "" || r.Fix != "" {
			t.Errorf("%+v", r)
		}
	}
}

// Each thing that can be wrong is told by its check, with a fix, and by none
// but those that depend on it.
func TestCheckBadHosts(t *testing.T) {
	broken := errors.New("broken")
	reads := func(h *Host, path, text string) {
		read := h.ReadFile
		h.ReadFile = func(p string) (string, error) {
			if p == path {
				return text, nil
			}
			return read(p)
		}
	}
	missing := func(h *Host, program string) {
		h.LookPath = func(p string) (string, error) {
			if p == program {
				return "", broken
			}
			return p, nil
		}
	}
	for name, test := range map[string]struct {
		check, why string
		level      Level
		spoil      func(*Config, *Host)
	}{
		"no kvm":        {"kvm", "does not open", Warn, func(_ *Config, h *Host) { h.OpenKVM = func() error { return broken } }},
		"software kvm":  {"kvm", "neither vmx nor svm: a software KVM (PVM)", Warn, func(_ *Config, h *Host) { reads(h, "/proc/cpuinfo", "flags : fpu") }},
		"no qemu":       {"qemu", "not found", Fail, func(_ *Config, h *Host) { missing(h, "qemu") }},
		"no jailer":     {"firecracker", "jailer is not found", Warn, func(_ *Config, h *Host) { missing(h, "jailer") }},
		"no kernel":     {"kernel", "none", Fail, func(c *Config, _ *Host) { c.KernelError = "none" }},
		"packed kernel": {"kernel", "/s/kernel/vmlinux is not what VMMs load: packed", Warn, func(c *Config, _ *Host) { c.KernelFault = "packed" }},
		"no init":       {"init", "not found", Fail, func(_ *Config, h *Host) { missing(h, "/i") }},
		"no controller": {"cgroup", "controller memory", Warn, func(_ *Config, h *Host) { reads(h, "/sys/fs/cgroup/cgroup.controllers", "cpu pids") }},
		"no capability": {"privileges", "CAP_NET_ADMIN", Warn, func(_ *Config, h *Host) { reads(h, "/proc/self/status", "CapEff:\t0000000000000001\n") }},
		"no nftables":   {"network", "broken", Warn, func(_ *Config, h *Host) { h.Nftables = func() error { return broken } }},
		"full disk":     {"disk space", "1 MiB", Warn, func(_ *Config, h *Host) { h.FreeBytes = func(string) (uint64, error) { return 1 << 20, nil } }},
		"no reflink":    {"reflink", "broken", Warn, func(_ *Config, h *Host) { h.Reflink = func(string) error { return broken } }},
		"other daemon":  {"daemon", "v0", Warn, func(_ *Config, h *Host) { h.Daemon = func(context.Context) (string, error) { return "v0", nil } }},
		"long path":     {"socket path", "of 107", Fail, func(c *Config, _ *Host) { c.Socket = "/" + strings.Repeat("x", 107) }},
		"no memory":     {"memory", "1 MiB", Warn, func(_ *Config, h *Host) { reads(h, "/proc/meminfo", "MemAvailable: 1024 kB") }},
		"few files":     {"open files", "1024", Warn, func(_ *Config, h *Host) { h.OpenFiles = func() uint64 { return 1024 } }},
		"no apt":        {"apt", "apt-get", Warn, func(_ *Config, h *Host) { missing(h, "apt-get") }},
		"slow clock": {"clock", "hpet", Warn, func(_ *Config, h *Host) {
			reads(h, "/sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n")
		}},
		"others' folder": {"state folder", "uid 7", Fail, func(c *Config, h *Host) {
			h.Folder = func(p string) (uint32, int, error) { return 0o700, map[string]int{c.StateDir: 7}[p], nil }
		}},
		"open folder": {"run folder", "mode 777", Warn, func(c *Config, h *Host) {
			h.Folder = func(p string) (uint32, int, error) {
				return map[string]uint32{c.RunDir: 0o777, c.StateDir: 0o700}[p], 0, nil
			}
		}},
		"port in use": {"port", "broken", Fail, func(_ *Config, h *Host) {
			h.Listen = func(string) error { return broken }
			h.Daemon = func(context.Context) (string, error) { return "", broken }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, h := good()
			test.spoil(&c, &h)
			for _, r := range Check(t.Context(), c, h) {
				if r.Name != test.check {
					if r.Level != OK {
						t.Errorf("and also %+v", r)
					}
					continue
				}
				if r.Level != test.level || !strings.Contains(r.Reason, test.why) || r.Fix == "" {
					t.Errorf("%+v, want %s because of %q", r, test.level, test.why)
				}
			}
		})
	}
}

// This host is looked at and nothing is left on it.
func TestLocal(t *testing.T) {
	c, fake := good()
	c.StateDir, c.RunDir, c.Address = t.TempDir(), t.TempDir(), "127.0.0.1:0"
	h := Local()
	h.Daemon, h.Nftables = fake.Daemon, fake.Nftables
	for _, r := range Check(t.Context(), c, h) {
		if r.Reason == "" || (r.Level == OK) != (r.Fix == "") {
			t.Errorf("%+v", r)
		}
	}
	if left, err := os.ReadDir(c.StateDir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
