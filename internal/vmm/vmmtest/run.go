package vmmtest

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func testCapabilities(t *testing.T, s Suite) {
	d := s.New()
	caps, err := d.Capabilities(deadline(t))
	must(t, err)
	if d.Name() == "" || caps.Version == "" {
		t.Errorf("name %q, version %q", d.Name(), caps.Version)
	}
	if (caps.Accel == "kvm") != (caps.AccelReason == "") {
		t.Errorf("acceleration %q with reason %q", caps.Accel, caps.AccelReason)
	}
}

func testAgent(t *testing.T, s Suite) {
	g := s.boot(t, s.config(t))
	if pid := g.ask("hello"); pid != "1" {
		t.Errorf("init is process %s", pid)
	}
	checkEcho(t, g, 3<<20)
	// The channel is served again after a break.
	g.hangUp()
	if pid := g.ask("hello"); pid != "1" {
		t.Errorf("init is process %s", pid)
	}
}

// checkEcho sends size bytes to the guest and takes them back.
func checkEcho(t *testing.T, g *guest, size int) {
	t.Helper()
	g.connect()
	sent := make([]byte, size)
	rand.Read(sent)
	go func() {
		fmt.Fprintf(g.agent, "echo %d\n", len(sent))
		g.agent.Write(sent)
	}()
	if _, err := g.answer(); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(g.lines, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("bytes came back changed")
	}
}

func testDrives(t *testing.T, s Suite) {
	cfg := s.config(t)
	checkDrives(t, s.boot(t, cfg))
	base, err := os.ReadFile(cfg.Drives[0].Path)
	must(t, err)
	if string(bytes.TrimRight(base, "\x00")) != "read-only base" {
		t.Error("the base has changed")
	}
}

// checkDrives reads and writes the drives of config, and ends the guest.
func checkDrives(t *testing.T, g *guest) {
	t.Helper()
	want := "vda:base:1048576:1 vdb:disk:2097152:0"
	if got := g.ask("disks"); got != want {
		t.Errorf("disks %q, want %q", got, want)
	}
	if got := g.read("/dev/vda", 0, 14); got != "read-only base" {
		t.Errorf("base holds %q", got)
	}
	g.ask("write /dev/vdb 4096 %x", "from the guest")
	if got := g.read("/dev/vdb", 4096, 14); got != "from the guest" {
		t.Errorf("disk holds %q", got)
	}
	if _, err := g.try("write /dev/vda 4096 00"); err == nil {
		t.Error("the base could be written")
	}
	// The guest has flushed it, so it survives the VMM.
	g.end()
	onHost, err := os.ReadFile(g.cfg.Drives[1].Path)
	must(t, err)
	if got := string(onHost[4096 : 4096+14]); got != "from the guest" {
		t.Errorf("disk holds %q after the end", got)
	}
}

// testSmall: all devices work in the least memory that a machine can have.
func testSmall(t *testing.T, s Suite) {
	cfg := s.config(t)
	cfg.MemMiB = 64
	cfg.Network = &machine.NetworkConfig{MAC: net.HardwareAddr{0x02, 0, 0, 0, 0, 2}}
	g := s.boot(t, cfg)
	checkEcho(t, g, 3<<20)
	g.ask("listen 80") // brings the interface up
	if got := g.ask("cat /sys/class/net/eth0/address"); got != "02:00:00:00:00:02" {
		t.Errorf("MAC address is %s", got)
	}
	t.Logf("memory: %.100s", g.ask("cat /proc/meminfo"))
	checkDrives(t, g)
}

func testConsole(t *testing.T, s Suite) {
	cfg := s.config(t)
	cfg.KernelArgs = "loglevel=6"
	g := s.boot(t, cfg)
	g.ask("print a line of its own")
	g.await("a line of its own", func() bool { return strings.Contains(g.console(), "a line of its own") })
	if out := g.console(); !strings.Contains(out, "Linux version") {
		t.Errorf("the console does not start at the first line: %.200q", out)
	}
	args := g.ask("cat /proc/cmdline")
	for _, want := range []string{"panic=-1", "loglevel=6"} {
		if !strings.Contains(args, want) {
			t.Errorf("kernel command line %q lacks %s", args, want)
		}
	}
}

// listener is a VMConfig.Console that remembers what it got.
type listener struct {
	mu    sync.Mutex
	heard strings.Builder
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard.Write(p)
}

func (l *listener) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heard.String()
}

// testConsoleWriter: whoever holds the VM gets its console, all of it, and
// nothing once it has let go.
func testConsoleWriter(t *testing.T, s Suite) {
	cfg := s.config(t)
	first, second := &listener{}, &listener{}
	cfg.Console = first
	g := s.boot(t, cfg)
	g.ask("print to the first owner")
	g.await("line", func() bool { return strings.Contains(first.String(), "to the first owner") })
	if got, want := first.String(), g.console(); got != want {
		t.Errorf("the writer got %d bytes, the record has %d", len(got), len(want))
	}
	ref := g.vm.Process()
	g.hangUp()
	must(t, g.vm.Close())
	before := first.String()
	cfg.Console = second
	vm, err := s.New().Adopt(deadline(t), cfg, ref)
	must(t, err)
	g.vm = vm
	g.ask("print to the second owner")
	g.await("line", func() bool { return strings.Contains(second.String(), "to the second owner") })
	if first.String() != before || strings.Contains(second.String(), "Linux version") {
		t.Errorf("the first writer got %d bytes more, the second %q", len(first.String())-len(before), second)
	}
}

// testFlood: a guest that floods its console fills nothing and stops nothing,
// with and without a daemon.
func testFlood(t *testing.T, s Suite) {
	const flood, limit = 1<<20 + 256<<10, 1<<20 + 64<<10
	cfg := s.config(t)
	g := s.boot(t, cfg)
	g.ask("flood %d", flood)
	g.ask("print end of the flood")
	g.await("end of the flood", func() bool { return strings.Contains(g.console(), "end of the flood") })
	if size := sizeOf(t, cfg.RunDir); size > limit || len(g.console()) < limit/4 {
		t.Errorf("the run directory holds %d bytes, the record %d", size, len(g.console()))
	}
	ref := g.vm.Process()
	g.hangUp()
	must(t, g.vm.Close())
	// Nobody reads the console now; the agent's channel is asked by its socket.
	vm, err := s.New().Adopt(deadline(t), cfg, ref)
	must(t, err)
	conn, err := vm.DialAgent(deadline(t))
	must(t, err)
	must(t, vm.Close())
	g.vm, g.agent, g.lines = vm, conn, bufio.NewReader(conn)
	g.ask("flood %d", flood/8)
	g.hangUp()
	g.vm, err = s.New().Adopt(deadline(t), cfg, ref)
	must(t, err)
	g.ask("print after the silence")
	g.await("new line", func() bool { return strings.Contains(g.console(), "after the silence") })
	if size := sizeOf(t, cfg.RunDir); size > limit {
		t.Errorf("the run directory holds %d bytes", size)
	}
}

// sizeOf sums up the files in dir.
func sizeOf(t *testing.T, dir string) (size int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		size += info.Size()
	}
	return size
}

func testPause(t *testing.T, s Suite) {
	g := s.boot(t, s.config(t))
	stopped := g.clock()
	must(t, g.vm.Pause(deadline(t)))
	const pause = 3 * time.Second
	<-time.After(pause)
	must(t, g.vm.Resume(deadline(t)))
	if passed := g.clock() - stopped; passed > pause-time.Second {
		t.Errorf("%v passed for a guest that stood still for %v", passed, pause)
	}
	// While it runs, its clock keeps the host's pace.
	before, start := g.clock(), time.Now()
	<-time.After(pause)
	if passed, want := g.clock()-before, time.Since(start); (passed - want).Abs() > want/10 {
		t.Errorf("%v passed in the guest while %v did here", passed, want)
	}
}

func (g *guest) clock() time.Duration {
	g.t.Helper()
	ns, err := strconv.ParseInt(g.ask("clock"), 10, 64)
	must(g.t, err)
	return time.Duration(ns)
}

func testTwice(t *testing.T, s Suite) {
	cfg := s.config(t)
	g := s.boot(t, cfg)
	g.ask("hello")
	requireCode(t, g.driver.Prepare(deadline(t), cfg), "VMM_RUNNING")
	_, err := g.driver.Boot(deadline(t), cfg)
	requireCode(t, err, "VMM_RUNNING")
	ctx := deadline(t)
	for _, call := range []func() error{
		func() error { return g.vm.Pause(ctx) },
		func() error { return g.vm.Resume(ctx) },
		func() error { return g.vm.Kill(ctx) },
		func() error { return g.driver.Release(ctx, cfg) },
		func() error { return g.vm.Close() },
	} {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := call(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		must(t, call())
	}
	if err := g.vm.Pause(ctx); err == nil {
		t.Error("a VMM that has ended was paused")
	}
	if _, err := g.vm.DialAgent(ctx); err == nil {
		t.Error("a VMM that has ended was dialed")
	}
}

func testReboot(t *testing.T, s Suite) {
	g := s.boot(t, s.config(t))
	g.ask("hello")
	fmt.Fprintln(g.agent, "reboot")
	exit := g.awaitExit(patience)
	if !exit.Known || exit.Code != 0 || exit.Signal != "" || exit.At.IsZero() {
		t.Errorf("exit is %+v", exit)
	}
	_, err := g.vm.DialAgent(deadline(t))
	requireCode(t, err, "VMM_DIED")
	requireCode(t, g.vm.Pause(deadline(t)), "VMM_DIED")
}

func testPanic(t *testing.T, s Suite) {
	g := s.boot(t, s.config(t))
	g.ask("hello")
	fmt.Fprintln(g.agent, "panic")
	if exit := g.awaitExit(patience); !strings.Contains(exit.Console, "Kernel panic - not syncing") {
		t.Errorf("exit is %+v", exit)
	}
}

func testKilled(t *testing.T, s Suite) {
	g := s.boot(t, s.config(t))
	g.ask("hello")
	must(t, unix.Kill(g.vm.Process().PID, unix.SIGKILL))
	exit := g.awaitExit(time.Second)
	if !exit.Known || exit.Code != -1 || exit.Signal != "SIGKILL" {
		t.Errorf("exit is %+v", exit)
	}
}

func testBadKernel(t *testing.T, s Suite) {
	cfg := s.config(t)
	cfg.KernelPath = filepath.Join(t.TempDir(), "kernel")
	must(t, os.WriteFile(cfg.KernelPath, bytes.Repeat([]byte("no kernel "), 1000), 0o644))
	d := s.New()
	leaves(t, d, cfg)
	must(t, d.Prepare(deadline(t), cfg))
	_, err := d.Boot(deadline(t), cfg)
	requireCode(t, err, "VMM_BOOT_FAILED")
	if !strings.Contains(errdefs.Public(err), "kernel") {
		t.Errorf("the error does not tell the VMM's reason: %v", err)
	}
	if left := processesOf(t, cfg.UID); len(left) > 0 {
		t.Errorf("processes are left before Release: %v", left)
	}
	// The next boot of the same machine is not disturbed.
	cfg.KernelPath = s.Files.KernelPath
	s.boot(t, cfg).ask("hello")
}

func testMissing(t *testing.T, s Suite) {
	for code, spoil := range map[string]func(*machine.VMConfig){
		"KERNEL_NOT_FOUND": func(c *machine.VMConfig) { c.KernelPath += ".gone" },
		"INITRD_NOT_FOUND": func(c *machine.VMConfig) { c.InitrdPath += ".gone" },
		"DRIVE_NOT_FOUND":  func(c *machine.VMConfig) { c.Drives[0].Path += ".gone" },
		"VALIDATION_ERROR": func(c *machine.VMConfig) { c.UID, c.GID = 0, 0 },
	} {
		cfg := s.config(t)
		spoil(&cfg)
		requireCode(t, s.New().Prepare(deadline(t), cfg), code)
		nothingLeft(t, machine.VMConfig{ID: cfg.ID, RunDir: cfg.RunDir, UID: s.UIDBase})
	}
}

func testRelease(t *testing.T, s Suite) {
	cfg := s.config(t)
	g := s.boot(t, cfg)
	g.ask("hello")
	must(t, g.driver.Release(deadline(t), machine.VMConfig{ID: cfg.ID, RunDir: cfg.RunDir, UID: cfg.UID}))
	g.awaitExit(time.Second)
	nothingLeft(t, cfg)
}

func testTwo(t *testing.T, s Suite) {
	shared := s.config(t)
	a, b := s.config(t), s.config(t)
	a.Drives[0], b.Drives[0] = shared.Drives[0], shared.Drives[0]
	one, two := s.boot(t, a), s.boot(t, b)
	one.ask("write /dev/vdb 0 %x", "one")
	two.ask("write /dev/vdb 0 %x", "two")
	if got := one.read("/dev/vdb", 0, 3) + two.read("/dev/vdb", 0, 3); got != "onetwo" {
		t.Errorf("the disks hold %q", got)
	}
	// A disk belongs to one machine.
	c := s.config(t)
	c.Drives[1] = a.Drives[1]
	d := s.New()
	leaves(t, d, c)
	must(t, d.Prepare(deadline(t), c))
	_, err := d.Boot(deadline(t), c)
	requireCode(t, err, "VMM_BOOT_FAILED")
}

// await waits until what is asked for is so.
func (g *guest) await(what string, ok func() bool) {
	g.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			g.t.Fatalf("no %s after %v; console: %s", what, patience, g.console())
		}
	}
}
