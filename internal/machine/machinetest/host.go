package machinetest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Host is what is there whether a daemon runs or not.
type Host struct {
	Store *Store

	dir string

	mu         sync.Mutex
	stateDir   string
	crashes    int
	nextPID    int
	processes  map[int]*process  // those that run, by pid
	runDirs    map[string]string // path -> machine
	made       int               // images so far
	images     map[string]image  // by reference
	cached     map[string]bool   // by digest
	leases     int
	behaviour  map[machine.ID]Behaviour
	clocks     map[machine.ID]int // how often a guest's clock was set after its boot
	violations []string
}

// Behaviour says how a machine's guest behaves. The zero value is a good one.
type Behaviour struct {
	Silent     bool         // the agent never answers
	BootError  error        // the guest's answer instead of ready
	DieAtBoot  machine.Exit // the VMM ends before the guest is ready; set Console to use it
	DeafToStop bool         // Shutdown has no effect
}

type image struct {
	machine.Image
	login *machine.RegistryAuth
}

// NewHost returns a host with one image, "alpine", and one folder for all
// state, which the test removes.
func NewHost(t testing.TB) *Host {
	t.Helper()
	h := &Host{
		Store: NewStore(), dir: t.TempDir(), nextPID: 1000,
		processes: map[int]*process{}, runDirs: map[string]string{},
		images: map[string]image{}, cached: map[string]bool{}, behaviour: map[machine.ID]Behaviour{},
		clocks: map[machine.ID]int{},
	}
	h.newStateDir(t)
	h.AddImage("alpine", nil)
	return h
}

func (h *Host) newStateDir(t testing.TB) {
	t.Helper()
	h.stateDir = filepath.Join(h.dir, fmt.Sprintf("state-%d", h.crashes))
	if err := os.MkdirAll(h.stateDir, 0o700); err != nil {
		t.Fatal(err)
	}
}

// AddImage makes ref name a new image; login is what its registry asks for.
// What ref named before can still be found by its digest.
func (h *Host) AddImage(ref string, login *machine.RegistryAuth) machine.Image {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.made++
	img := machine.Image{
		Ref:      "registry.test/" + ref + ":latest",
		Digest:   fmt.Sprintf("sha256:%064x", h.made),
		BasePath: filepath.Join(h.dir, fmt.Sprintf("base-%d.ext4", h.made)),
		Config:   machine.ImageConfig{Env: []string{"PATH=/bin", "FROM=image"}, Volumes: []string{"/data"}},
	}
	h.images[ref] = image{img, login}
	h.images[img.Ref] = image{img, login}
	h.images["registry.test/"+ref+"@"+img.Digest] = image{img, login}
	return img
}

// EvictImages empties the cache. Their registry still has the images.
func (h *Host) EvictImages() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.cached)
}

// RemoveImage forgets ref and all that leads to what it names.
func (h *Host) RemoveImage(ref string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	digest := h.images[ref].Digest
	maps.DeleteFunc(h.images, func(_ string, img image) bool { return img.Digest == digest })
}

// Behave sets how the machine's guests behave from their next boot on.
func (h *Host) Behave(id machine.ID, b Behaviour) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.behaviour[id] = b
}

// End ends the machine's VMM, if it runs, as exit says.
func (h *Host) End(id machine.ID, exit machine.Exit) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.of(id) {
		h.end(p, exit)
	}
}

// PowerOff ends the machine's VMM as a guest does that powers off.
func (h *Host) PowerOff(id machine.ID) {
	h.End(id, machine.Exit{Known: true, Console: "reboot: Power down"})
}

// Say writes to the serial console of the machine's guest.
func (h *Host) Say(id machine.ID, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.of(id) {
		p.say(text)
	}
}

// Running reports whether a VMM of the machine runs, and its pid.
func (h *Host) Running(id machine.ID) (pid int, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.of(id) {
		return p.ref.PID, true
	}
	return 0, false
}

// ClockSet is how often the machine's guest was given the time after its boot.
func (h *Host) ClockSet(id machine.ID) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.clocks[id]
}

// DiskExists reports whether the machine's disk is there.
func (h *Host) DiskExists(id machine.ID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := os.Stat(filepath.Join(h.stateDir, "machines", string(id), "disk.ext4"))
	return err == nil
}

// RecordHolds reports whether any record of the store contains the text.
func (h *Host) RecordHolds(text string) bool { return h.Store.holds(text) }

// Leftovers names all that is there of machines that do not run: processes,
// run directories, leases. Disks count only for machines that the store does
// not know, or that have never started. Violations of a contract count always.
func (h *Host) Leftovers() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	left := slices.Clone(h.violations)
	known := h.Store.snapshot()
	for _, p := range h.processes {
		if m := known[p.id]; m.State != machine.Running && m.State != machine.Paused {
			left = append(left, fmt.Sprintf("process %d of machine %s, which is %q", p.ref.PID, p.id, m.State))
		}
	}
	for dir, id := range h.runDirs {
		if m := known[machine.ID(id)]; m.State != machine.Running && m.State != machine.Paused {
			left = append(left, fmt.Sprintf("run directory %s of a machine that is %q", dir, m.State))
		}
	}
	if h.leases != 0 {
		left = append(left, fmt.Sprintf("%d image leases", h.leases))
	}
	entries, err := os.ReadDir(filepath.Join(h.stateDir, "machines"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		left = append(left, err.Error())
	}
	for _, entry := range entries {
		m, ok := known[machine.ID(entry.Name())]
		if !ok {
			left = append(left, "folder of machine "+entry.Name())
			continue
		}
		_, err := os.Stat(filepath.Join(h.stateDir, "machines", entry.Name(), "disk.ext4"))
		if err == nil && m.StartedAt.IsZero() {
			left = append(left, "disk of machine "+entry.Name()+", which is "+string(m.State))
		}
	}
	return left
}

func (h *Host) of(id machine.ID) []*process {
	var list []*process
	for _, p := range h.processes {
		if p.id == id {
			list = append(list, p)
		}
	}
	return list
}

// end must be called with h.mu held.
func (h *Host) end(p *process, exit machine.Exit) {
	if h.processes[p.ref.PID] != p {
		return
	}
	delete(h.processes, p.ref.PID)
	p.say(exit.Console + "\n")
	exit.At = time.Now()
	p.exit = exit
	p.guest.end()
	close(p.done)
}

func (h *Host) violation(format string, args ...any) error {
	err := fmt.Errorf("contract violated: "+format, args...)
	h.violations = append(h.violations, err.Error())
	return err
}
