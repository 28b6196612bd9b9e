package machine_test

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// counter remembers what it was told.
type counter struct {
	mu   sync.Mutex
	told []string
}

func (c *counter) add(words ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, strings.Join(words, " "))
}

func (c *counter) StepEnded(operation, step string, _ time.Duration) { c.add("step", operation, step) }
func (c *counter) OperationEnded(operation, code string, _ time.Duration) {
	c.add("operation", operation, code)
}
func (c *counter) VMMEnded(reason string) { c.add("vmm", reason) }

func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	told := c.told
	c.told = nil
	return told
}

func TestObserverIsTold(t *testing.T) {
	h := machinetest.NewHost(t)
	var told counter
	m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.Observer = &told })
	id := mustCreate(t, m, spec("x")).ID
	check := func(what string, want ...string) {
		t.Helper()
		if got := told.take(); !slices.Equal(got, want) {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	mustStart(t, m, id)
	check("start", "step start begin", "step start image", "step start disk", "step start kernel", "step start prepare",
		"step start boot", "step start process", "step start guest", "step start publish", "operation start ")
	mustStart(t, m, id)
	check("start of what runs")
	h.PowerOff(id)
	if _, err := m.Wait(t.Context(), id, machine.Stopped); err != nil {
		t.Fatal(err)
	}
	check("power-off", "vmm powered_off")
	mustStart(t, m, id)
	told.take()
	h.End(id, machine.Exit{Known: true, Code: 1})
	if _, err := m.Wait(t.Context(), id, machine.Failed); err != nil {
		t.Fatal(err)
	}
	check("end of the VMM", "vmm failed")
	if err := m.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	check("delete", "step delete begin", "step delete kill", "step delete release", "step delete files", "step delete record", "operation delete ")

	s := spec("y")
	s.Image = "nosuch"
	if _, err := m.Start(t.Context(), mustCreate(t, m, s).ID); err == nil {
		t.Fatal("started without an image")
	}
	check("failed start", "step start begin", "step start image", "operation start IMAGE_NOT_FOUND")
}

func TestObserverOfLostVMM(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	id := mustStart(t, m, mustCreate(t, m, spec("x")).ID).ID
	mustClose(t, m)
	h.End(id, machine.Exit{})
	var told counter
	newManager(t, h.Daemon(t), func(c *machine.Config) { c.Observer = &told })
	if got := told.take(); !slices.Equal(got, []string{"vmm lost"}) {
		t.Errorf("told %q", got)
	}
}
