package qemu

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestArgv(t *testing.T) {
	cfg := machine.VMConfig{
		ID: "abc", VCPUs: 2, MemMiB: 256, InitrdPath: "/initrd",
		Drives:  []machine.Drive{{ID: "base", ReadOnly: true}, {ID: "disk"}},
		Network: &machine.NetworkConfig{MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}},
	}
	fds := descriptors{kernel: 3, initrd: 4, drives: []int{5, 6}, agent: 7, console: 8, monitor: 9}
	for goarch, a := range arches {
		for _, accel := range []string{accelTCG, accelKVM} {
			golden := filepath.Join("testdata", goarch+"-"+accel+".golden")
			want, err := os.ReadFile(golden)
			must(t, err)
			got := strings.Join(a.argv(cfg, accel, "quiet", fds), "\n") + "\n"
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s: %s", golden, diff)
			}
		}
	}
}

// TestSmallArgv shows what is different for a small guest.
func TestSmallArgv(t *testing.T) {
	cfg := machine.VMConfig{
		ID: "abc", VCPUs: 1, MemMiB: 64, InitrdPath: "/initrd", SmallInitrdPath: "/small",
		Drives:  []machine.Drive{{ID: "base", ReadOnly: true}},
		Network: &machine.NetworkConfig{},
	}
	fds := descriptors{kernel: 3, initrd: 4, drives: []int{5}, agent: 6, console: 7, monitor: 8}
	ordinary := cfg
	ordinary.SmallInitrdPath = ""
	for goarch, a := range arches {
		golden := filepath.Join("testdata", goarch+"-small.golden")
		want, err := os.ReadFile(golden)
		must(t, err)
		var got strings.Builder
		before := a.argv(ordinary, accelTCG, "quiet", fds)
		for i, arg := range a.argv(cfg, accelTCG, "quiet", fds) {
			if arg != before[i] {
				fmt.Fprintln(&got, arg)
			}
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s: %s", golden, diff)
		}
	}
}

func TestSmallGuest(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    machine.VMConfig
		initrd string
	}{
		"small":        {machine.VMConfig{MemMiB: 127, InitrdPath: "/i", SmallInitrdPath: "/s"}, "/s"},
		"large":        {machine.VMConfig{MemMiB: 128, InitrdPath: "/i", SmallInitrdPath: "/s"}, "/i"},
		"own kernel":   {machine.VMConfig{MemMiB: 64, InitrdPath: "/i"}, "/i"},
		"no initramfs": {machine.VMConfig{MemMiB: 64, SmallInitrdPath: "/s"}, ""},
	} {
		if got := initrdPath(c.cfg); got != c.initrd {
			t.Errorf("%s: initramfs %q, want %q", name, got, c.initrd)
		}
		line, err := arches["amd64"].commandLine(c.cfg, 0)
		must(t, err)
		if got := strings.Contains(line, strings.Join(smallArgs, " ")); got != (name == "small") {
			t.Errorf("%s: kernel command line %q", name, line)
		}
	}
	cfg := machine.VMConfig{MemMiB: 64, InitrdPath: "/i", SmallInitrdPath: "/s", KernelArgs: "percpu_alloc=embed"}
	if line, err := arches["amd64"].commandLine(cfg, 0); err != nil || !strings.HasSuffix(line, " percpu_alloc=embed") {
		t.Errorf("the caller's arguments are not the last: %q, %v", line, err)
	}
}

func TestCommandLine(t *testing.T) {
	a := arches["amd64"]
	const ours = "console=ttyS0 quiet cryptomgr.notests reboot=t panic=-1 hyperfleet.agent=serial:hyperfleet.agent"
	for _, c := range []struct {
		cfg  machine.VMConfig
		tsc  uint32
		want string
	}{
		{machine.VMConfig{InitrdPath: "/i"}, 0, ours},
		{machine.VMConfig{InitrdPath: "/i"}, 2596142, ours + " tsc_early_khz=2596142 tsc=reliable"},
		{machine.VMConfig{InitrdPath: "/i", KernelArgs: " loglevel=7 panic=5 "}, 0, ours + " loglevel=7 panic=5"},
		{machine.VMConfig{Drives: []machine.Drive{{ReadOnly: true}}}, 0, ours + " root=/dev/vda init=/init ro"},
		{machine.VMConfig{Drives: []machine.Drive{{}}}, 0, ours + " root=/dev/vda init=/init rw"},
	} {
		got, err := a.commandLine(c.cfg, c.tsc)
		if err != nil || got != c.want {
			t.Errorf("%q, %v, want %q", got, err, c.want)
		}
	}
	for _, bad := range []string{strings.Repeat("x", 2000), "a\nb", "a\x00b", "a\x7fb"} {
		if _, err := a.commandLine(machine.VMConfig{KernelArgs: bad}, 0); !errdefs.Is(err, errdefs.Invalid) {
			t.Errorf("%.10q: %v", bad, err)
		}
	}
}

func FuzzCommandLine(f *testing.F) {
	f.Add("quiet", uint32(1))
	f.Add("a\nb", uint32(0))
	f.Fuzz(func(t *testing.T, args string, tsc uint32) {
		line, err := arches["amd64"].commandLine(machine.VMConfig{KernelArgs: args}, tsc)
		if err == nil && (len(line) > maxKernel || strings.ContainsAny(line, "\x00\n\r")) {
			t.Errorf("line %q", line)
		}
	})
}

func TestAccelerator(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(content), 0o600))
		return path
	}
	device := file("kvm", "")
	intel := file("intel", "processor\t: 0\nflags\t\t: fpu vmx sse\n")
	amd := file("amd", "flags\t\t: fpu svm\n")
	none := file("none", "flags\t\t: fpu svmx xvmx\nmodel name\t: svm vmx\n")
	for _, c := range []struct{ goarch, device, cpuinfo, want, reason string }{
		{"amd64", device, intel, accelKVM, ""},
		{"amd64", device, amd, accelKVM, ""},
		{"amd64", device, none, accelTCG, "neither vmx nor svm"},
		{"amd64", device, dir + "/gone", accelTCG, "cannot be read"},
		{"amd64", dir + "/gone", intel, accelTCG, "cannot be used"},
		{"arm64", device, none, accelKVM, ""},
		{"arm64", dir + "/gone", none, accelTCG, "cannot be used"},
	} {
		accel, reason := accelerator(c.goarch, c.device, c.cpuinfo)
		if accel != c.want || !strings.Contains(reason, c.reason) || (reason == "") != (c.reason == "") {
			t.Errorf("%+v: %s, %q", c, accel, reason)
		}
	}
}

func TestCheck(t *testing.T) {
	for name, spoil := range map[string]func(*machine.VMConfig){
		"id":               func(c *machine.VMConfig) { c.ID = "../x" },
		"relative dir":     func(c *machine.VMConfig) { c.RunDir = "run" },
		"unclean dir":      func(c *machine.VMConfig) { c.RunDir += "/../x" },
		"vcpus":            func(c *machine.VMConfig) { c.VCPUs = 0 },
		"memory":           func(c *machine.VMConfig) { c.MemMiB = -1 },
		"user":             func(c *machine.VMConfig) { c.UID = -1 },
		"root's group":     func(c *machine.VMConfig) { c.UID, c.GID = 65534, 0 },
		"drive id":         func(c *machine.VMConfig) { c.Drives[0].ID = "a,b" },
		"drive id twice":   func(c *machine.VMConfig) { c.Drives[1].ID = c.Drives[0].ID },
		"drive is folder":  func(c *machine.VMConfig) { c.Drives[0].Path = "/" },
		"kernel is folder": func(c *machine.VMConfig) { c.KernelPath = "/" },
		"guest port":       func(c *machine.VMConfig) { c.Network.Forwards[0].GuestPort = 0 },
		"multicast MAC":    func(c *machine.VMConfig) { c.Network.MAC = net.HardwareAddr{1, 0, 0, 0, 0, 0} },
		"too many drives":  func(c *machine.VMConfig) { c.Drives = make([]machine.Drive, maxDrives+1) },
		"kernel arguments": func(c *machine.VMConfig) { c.KernelArgs = "\n" },
	} {
		d, cfg := fake(t, "none")
		spoil(&cfg)
		if err := d.Prepare(t.Context(), cfg); !errdefs.Is(err, errdefs.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkUser(machine.VMConfig{}, 0); !errdefs.Is(err, errdefs.Invalid) {
		t.Errorf("a VMM may run as root: %v", err)
	}
	if err := checkUser(machine.VMConfig{UID: 5, GID: 5}, 1000); !errdefs.Is(err, errdefs.Unsupported) {
		t.Errorf("an ordinary user may run a VMM as another: %v", err)
	}
}

func TestNoQEMU(t *testing.T) {
	d := New(Options{Binary: filepath.Join(t.TempDir(), "nothing")})
	if _, err := d.Capabilities(t.Context()); errdefs.CodeOf(err) != "QEMU_NOT_FOUND" || !strings.Contains(errdefs.Public(err), "apt-get install") {
		t.Errorf("capabilities give %v", err)
	}
}

func TestTSC(t *testing.T) {
	c := startTSCClock()
	first, err := c.kHz(t.Context())
	must(t, err)
	again, err := startTSCClock().kHz(t.Context())
	must(t, err)
	if diff := int64(first) - int64(again); diff*diff*1e8 > int64(first)*int64(first) {
		t.Errorf("two measurements differ by more than 100 ppm: %d and %d kHz", first, again)
	}
}
