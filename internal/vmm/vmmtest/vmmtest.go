// Package vmmtest is the conformance suite of machine.Driver: what every driver
// must do with a real guest, and what it must leave behind, which is nothing.
//
// A driver's test calls Main from TestMain and Run from one test; both need
// root, since a VMM runs as a user of its own, and a kernel with an initramfs
// whose init is testinit. Only tests import the package.
package vmmtest

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// TestInit is the import path of the guest's init.
const TestInit = "github.com/hyperfleet/hyperfleet/internal/vmm/vmmtest/testinit"

// patience bounds everything that a guest or its VMM does. A boot takes seconds
// on an idle machine without KVM, and several times that on a busy one.
const patience = time.Minute

// Suite is one driver under test.
type Suite struct {
	New     func() machine.Driver
	Files   machine.BootFiles // with TestInit
	UIDBase int               // the suite's VMMs run as this user and the next few
}

// Run runs the whole suite.
func Run(t *testing.T, s Suite) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Suite)
	}{
		{"capabilities", testCapabilities},
		{"agent channel carries bytes both ways", testAgent},
		{"guest sees its drives in order", testDrives},
		{"guest with little memory", testSmall},
		{"console is recorded from the first line", testConsole},
		{"console goes to its writer", testConsoleWriter},
		{"console flood", testFlood},
		{"pause stops the guest's clock", testPause},
		{"calls twice and concurrently", testTwice},
		{"guest reboot ends the VMM", testReboot},
		{"guest panic is the last line", testPanic},
		{"kill -9 of the VMM is noticed", testKilled},
		{"bad kernel", testBadKernel},
		{"missing files", testMissing},
		{"release ends a running VMM", testRelease},
		{"two at once", testTwo},
		{"port forwards", testForwards},
		{"adopt in the same process", testAdopt},
		{"adopt after the owner was killed", testOrphan},
		{"adopt of a stranger", testStranger},
		{"the VMM holds nothing else", testIsolation},
	} {
		t.Run(c.name, func(t *testing.T) {
			keepsDescriptors(t)
			c.test(t, s)
		})
	}
}

// guest is one booted machine of a test.
type guest struct {
	t      *testing.T
	driver machine.Driver
	cfg    machine.VMConfig
	vm     machine.VM
	agent  net.Conn
	lines  *bufio.Reader
}

var users atomic.Int32

// config is a small machine with a read-only and a writable drive.
func (s Suite) config(t *testing.T) machine.VMConfig {
	t.Helper()
	dir := t.TempDir()
	id := machine.NewID()
	uid := s.UIDBase + int(users.Add(1))
	return machine.VMConfig{
		ID: id, RunDir: filepath.Join(dir, "machines", string(id)),
		UID: uid, GID: uid,
		VCPUs: 1, MemMiB: 128,
		KernelPath: s.Files.KernelPath, InitrdPath: s.Files.InitrdPath, SmallInitrdPath: s.Files.SmallInitrdPath,
		Drives: []machine.Drive{
			{ID: "base", Path: image(t, dir, "base", "read-only base", 1<<20), ReadOnly: true},
			{ID: "disk", Path: image(t, dir, "disk", "writable disk", 2<<20)},
		},
	}
}

// image makes a sparse file that starts with text.
func image(t *testing.T, dir, name, text string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	must(t, os.Truncate(path, size))
	return path
}

// boot boots cfg and promises that nothing is left at the end of the test.
func (s Suite) boot(t *testing.T, cfg machine.VMConfig) *guest {
	t.Helper()
	driver := s.New()
	leaves(t, driver, cfg)
	must(t, driver.Prepare(deadline(t), cfg))
	vm, err := driver.Boot(deadline(t), cfg)
	must(t, err)
	g := &guest{t: t, driver: driver, cfg: cfg, vm: vm}
	t.Cleanup(g.end)
	return g
}

// end ends the guest the hard way.
func (g *guest) end() {
	g.hangUp()
	if g.t.Failed() {
		g.t.Logf("console: %s", g.console())
	}
	if err := g.vm.Kill(background()); err != nil {
		g.t.Errorf("kill: %v", err)
	}
	must(g.t, g.vm.Close())
}

// ask sends one request to testinit and returns what follows "ok".
func (g *guest) ask(format string, args ...any) string {
	g.t.Helper()
	answer, err := g.try(format, args...)
	must(g.t, err)
	return answer
}

func (g *guest) try(format string, args ...any) (string, error) {
	g.t.Helper()
	g.connect()
	g.agent.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(g.agent, format+"\n", args...); err != nil {
		return "", err
	}
	return g.answer()
}

func (g *guest) answer() (string, error) {
	line, err := g.lines.ReadString('\n')
	if err != nil {
		return "", err
	}
	result, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "ok")
	if !ok {
		return "", fmt.Errorf("guest answers %q", line)
	}
	return strings.TrimPrefix(result, " "), nil
}

func (g *guest) connect() {
	g.t.Helper()
	if g.agent != nil {
		return
	}
	conn, err := g.vm.DialAgent(deadline(g.t))
	must(g.t, err)
	g.agent, g.lines = conn, bufio.NewReader(conn)
}

func (g *guest) hangUp() {
	if g.agent != nil {
		g.agent.Close()
		g.agent = nil
	}
}

// awaitExit waits for the VMM's end.
func (g *guest) awaitExit(within time.Duration) machine.Exit {
	g.t.Helper()
	select {
	case <-g.vm.Done():
	case <-time.After(within):
		g.t.Fatalf("the VMM has not ended after %v; console: %s", within, g.console())
	}
	return g.vm.Exit()
}

func (g *guest) console() string {
	g.t.Helper()
	f, err := g.vm.Console()
	must(g.t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(g.t, err)
	return string(b)
}

// read reads from a guest's disk.
func (g *guest) read(dev string, offset, size int) string {
	g.t.Helper()
	b, err := hex.DecodeString(g.ask("read %s %d %d", dev, offset, size))
	must(g.t, err)
	return string(b)
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// background is the context of clean-ups, which run after a test's own ended.
func background() context.Context { return context.Background() }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
