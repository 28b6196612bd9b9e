package vmmtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// ownerVar makes a test binary the owner of one VMM, see Main.
const ownerVar = "HYPERFLEET_VMMTEST_OWNER"

// Main is a driver's TestMain. Started by testOrphan, the test binary is the
// owner instead: it boots one machine, says so, and waits to be killed.
func Main(m *testing.M, newDriver func() machine.Driver) int {
	config := os.Getenv(ownerVar)
	if config == "" {
		return m.Run()
	}
	fmt.Fprintln(os.Stderr, own(newDriver(), config))
	return 1
}

// own returns only when it fails.
func own(d machine.Driver, config string) error {
	var cfg machine.VMConfig
	if err := json.Unmarshal([]byte(config), &cfg); err != nil {
		return err
	}
	if err := d.Prepare(background(), cfg); err != nil {
		return err
	}
	vm, err := d.Boot(background(), cfg)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(vm.Process()); err != nil {
		return err
	}
	select {}
}

func testAdopt(t *testing.T, s Suite) {
	cfg := s.config(t)
	g := s.boot(t, cfg)
	g.ask("hello")
	ref := g.vm.Process()
	g.hangUp()
	must(t, g.vm.Close())
	if err := g.vm.Pause(deadline(t)); err == nil {
		t.Error("a closed VM was paused")
	}
	vm, err := s.New().Adopt(deadline(t), cfg, ref)
	must(t, err)
	g.vm = vm
	g.serves(ref)
	must(t, unix.Kill(ref.PID, unix.SIGKILL))
	g.awaitExit(time.Second)
}

// serves makes sure that an adopted VM does all that a booted one does.
func (g *guest) serves(ref machine.ProcessRef) {
	g.t.Helper()
	if got := g.vm.Process(); got != ref {
		g.t.Errorf("process is %+v, want %+v", got, ref)
	}
	g.ask("print seen by the new owner")
	g.await("console", func() bool { return strings.Contains(g.console(), "seen by the new owner") })
	must(g.t, g.vm.Pause(deadline(g.t)))
	must(g.t, g.vm.Resume(deadline(g.t)))
	g.ask("hello")
}

func testOrphan(t *testing.T, s Suite) {
	cfg := s.config(t)
	driver := s.New()
	leaves(t, driver, cfg)
	ref := orphan(t, cfg)
	vm, err := driver.Adopt(deadline(t), cfg, ref)
	must(t, err)
	g := &guest{t: t, driver: driver, cfg: cfg, vm: vm}
	t.Cleanup(g.end)
	g.serves(ref)
	must(t, unix.Kill(ref.PID, unix.SIGKILL))
	if exit := g.awaitExit(time.Second); exit.Known {
		t.Errorf("the exit of another's child is known: %+v", exit)
	}
	_, err = driver.Adopt(deadline(t), cfg, ref)
	requireGone(t, err)
}

// orphan boots cfg in a process that is then killed.
func orphan(t *testing.T, cfg machine.VMConfig) machine.ProcessRef {
	t.Helper()
	config, err := json.Marshal(cfg)
	must(t, err)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerVar+"="+string(config))
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, readErr := bufio.NewReader(stdout).ReadBytes('\n')
	must(t, cmd.Process.Kill())
	cmd.Wait() // says that it was killed
	must(t, readErr)
	var ref machine.ProcessRef
	must(t, json.Unmarshal(line, &ref))
	return ref
}

func testStranger(t *testing.T, s Suite) {
	cfg := s.config(t)
	g := s.boot(t, cfg)
	ref := g.vm.Process()
	for name, spoil := range map[string]func(*machine.ProcessRef){
		"pid":        func(r *machine.ProcessRef) { r.PID = os.Getpid() },
		"init":       func(r *machine.ProcessRef) { r.PID = 1 },
		"zero":       func(r *machine.ProcessRef) { *r = machine.ProcessRef{} },
		"start time": func(r *machine.ProcessRef) { r.StartTime++ },
		"executable": func(r *machine.ProcessRef) { r.Exe = "/bin/true" },
		"boot":       func(r *machine.ProcessRef) { r.BootID = "another" },
	} {
		t.Run(name, func(t *testing.T) {
			wrong := ref
			spoil(&wrong)
			_, err := g.driver.Adopt(deadline(t), cfg, wrong)
			requireGone(t, err)
		})
	}
	// Another machine's process is not this one's.
	other := s.config(t)
	leaves(t, g.driver, other)
	must(t, g.driver.Prepare(deadline(t), other))
	_, err := g.driver.Adopt(deadline(t), other, ref)
	requireGone(t, err)
	g.ask("hello")
}

func requireGone(t *testing.T, err error) {
	t.Helper()
	if !errdefs.Is(err, errdefs.NotFound) {
		t.Errorf("adopt answers %v, want not found", err)
	}
}

func testForwards(t *testing.T, s Suite) {
	cfg := s.config(t)
	cfg.Network = &machine.NetworkConfig{
		MAC:      net.HardwareAddr{0x02, 0, 0, 0, 0, 1},
		Forwards: []machine.PortForward{{GuestPort: 80}, {GuestPort: 81}},
	}
	caps, err := s.New().Capabilities(deadline(t))
	must(t, err)
	if !caps.PortForwards {
		return // the driver says that it has none
	}
	g := s.boot(t, cfg)
	forwards := g.vm.PortForwards()
	if len(forwards) != 2 || forwards[0].GuestPort != 80 || forwards[0].HostPort == 0 || forwards[0].HostPort == forwards[1].HostPort {
		t.Fatalf("forwards are %+v", forwards)
	}
	g.ask("listen 80")
	requireEcho(t, forwards[0].HostPort)
	if got := g.ask("cat /sys/class/net/eth0/address"); got != "02:00:00:00:00:01" {
		t.Errorf("MAC address is %s", got)
	}
	// The same port of the host again is a conflict, and leaves nothing.
	taken := s.config(t)
	taken.Network = &machine.NetworkConfig{Forwards: forwards[:1]}
	leaves(t, g.driver, taken)
	must(t, g.driver.Prepare(deadline(t), taken))
	_, err = g.driver.Boot(deadline(t), taken)
	requireCode(t, err, "PORT_IN_USE")
	// An adopted VM knows its forwards.
	ref := g.vm.Process()
	g.hangUp()
	must(t, g.vm.Close())
	g.vm, err = g.driver.Adopt(deadline(t), cfg, ref)
	must(t, err)
	if got := g.vm.PortForwards(); len(got) != 2 || got[0] != forwards[0] {
		t.Errorf("forwards are %+v, were %+v", got, forwards)
	}
	requireEcho(t, forwards[0].HostPort)
}

func requireEcho(t *testing.T, port uint16) {
	t.Helper()
	conn, err := net.DialTimeout("tcp4", fmt.Sprintf("127.0.0.1:%d", port), patience)
	must(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	_, err = conn.Write([]byte("through the forward\n"))
	must(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	must(t, err)
	if line != "through the forward\n" {
		t.Errorf("echo is %q", line)
	}
}
