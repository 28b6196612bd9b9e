package machine_test

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// requireFailedStart starts the machine, and checks the error, the record and
// that nothing is left.
func requireFailedStart(t *testing.T, h *machinetest.Host, m *machine.Manager, id machine.ID, kind errdefs.Kind, code, message string) {
	t.Helper()
	_, err := m.Start(t.Context(), id)
	requireKind(t, err, kind, code)
	if got := errdefs.Public(err); !strings.Contains(got, message) {
		t.Errorf("message %q does not contain %q", got, message)
	}
	mc, err := m.Get(t.Context(), id)
	if err != nil || mc.State != machine.Failed || mc.ErrorCode != code || !strings.Contains(mc.ErrorMessage, message) {
		t.Errorf("record after the failure: %+v, %v", mc, err)
	}
	requireClean(t, h)
	if m.InUse()[mc.ImageDigest] || mc.ImageDigest != "" {
		t.Errorf("image %s is still pinned", mc.ImageDigest)
	}
}

func TestManagerStartUnknownImage(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	s := spec("x")
	s.Image = "nosuch"
	id := mustCreate(t, m, s).ID
	requireFailedStart(t, h, m, id, errdefs.NotFound, "IMAGE_NOT_FOUND", "image nosuch not found")
	h.AddImage("nosuch", nil)
	if mc := mustStart(t, m, id); mc.ErrorMessage != "" || mc.ErrorCode != "" {
		t.Errorf("a running machine has an error: %+v", mc)
	}
}

func TestManagerRegistryLogin(t *testing.T) {
	h := machinetest.NewHost(t)
	d := h.Daemon(t)
	m := newManager(t, d)
	login := machine.RegistryAuth{Username: "user", Password: "s3cret-word"}
	h.AddImage("private", &login)
	s := spec("x")
	s.Image = "private"

	for _, auth := range []*machine.RegistryAuth{nil, {Username: "user", Password: "wrong"}} {
		mc, err := m.Create(t.Context(), machine.CreateRequest{Spec: s, Auth: auth})
		if err != nil {
			t.Fatal(err)
		}
		requireFailedStart(t, h, m, mc.ID, errdefs.Unauthorized, "REGISTRY_UNAUTHORIZED", "refuses")
	}
	mc, err := m.Create(t.Context(), machine.CreateRequest{Spec: s, Auth: &login})
	if err != nil {
		t.Fatal(err)
	}
	// It outlives a start that fails for another reason.
	h.Behave(mc.ID, machinetest.Behaviour{BootError: errdefs.New(errdefs.Guest, "GUEST_MOUNT", "no disk")})
	requireFailedStart(t, h, m, mc.ID, errdefs.Guest, "GUEST_MOUNT", "no disk")
	h.Behave(mc.ID, machinetest.Behaviour{})
	mustStart(t, m, mc.ID)
	if h.RecordHolds(login.Password) || h.RecordHolds("wrong") {
		t.Error("the store holds a password")
	}
	// And is forgotten then: the evicted image cannot be had again with it.
	if err := doStop(t, m, mc.ID); err != nil {
		t.Fatal(err)
	}
	h.EvictImages()
	_, err = m.Start(t.Context(), mc.ID)
	requireKind(t, err, errdefs.Unauthorized, "REGISTRY_UNAUTHORIZED")
}

func TestManagerSilentGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := machinetest.NewHost(t)
		m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.BootTimeout = 45 * time.Second })
		id := created(t, m)
		h.Behave(id, machinetest.Behaviour{Silent: true})
		begin := time.Now()
		requireFailedStart(t, h, m, id, errdefs.Timeout, "GUEST_TIMEOUT", "did not answer within 45s: booting")
		if d := time.Since(begin); d != 45*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// A full disk is told of whoever meets it, and however a driver has put it.
func TestManagerDiskFull(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := created(t, m)
	full := &fs.PathError{Op: "write", Path: "record", Err: syscall.ENOSPC}
	for _, err := range []error{full, errdefs.Wrap(full, errdefs.Runtime, "VMM_BOOT_FAILED", "the VMM did not start")} {
		h.Behave(id, machinetest.Behaviour{BootError: err})
		requireFailedStart(t, h, m, id, errdefs.Exhausted, "DISK_FULL", "no disk space left")
	}
	h.Behave(id, machinetest.Behaviour{BootError: errdefs.Wrap(full, errdefs.Exhausted, "OWN_CODE", "own words")})
	requireFailedStart(t, h, m, id, errdefs.Exhausted, "OWN_CODE", "own words")
}

func TestManagerVMMDiesAtBoot(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := created(t, m)
	h.Behave(id, machinetest.Behaviour{DieAtBoot: machine.Exit{
		Known: true, Code: 1, Console: "Kernel panic - \x1b[31mno init\x07" + strings.Repeat("!", 1000),
	}})
	requireFailedStart(t, h, m, id, errdefs.Runtime, "VMM_EXITED", "with status 1: Kernel panic - [31mno init!!")
	if mc, _ := m.Get(t.Context(), id); len(mc.ErrorMessage) > 300 {
		t.Errorf("message of %d bytes", len(mc.ErrorMessage))
	}
}

func TestManagerSecondStartKeepsDisk(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := stopped(t, m)
	h.Behave(id, machinetest.Behaviour{BootError: errdefs.New(errdefs.Guest, "GUEST_MOUNT", "bad disk")})
	_, err := m.Start(t.Context(), id)
	requireKind(t, err, errdefs.Guest, "GUEST_MOUNT")
	mc, err := m.Get(t.Context(), id)
	if err != nil || mc.ImageDigest == "" || !h.DiskExists(id) {
		t.Fatalf("a failed second start lost the disk or its base: %+v, %v", mc, err)
	}
	requireClean(t, h)
}

func TestManagerDeafGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := machinetest.NewHost(t)
		m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.StopGrace = 3 * time.Second })
		id := created(t, m)
		h.Behave(id, machinetest.Behaviour{DeafToStop: true})
		mustStart(t, m, id)
		begin := time.Now()
		if mc, err := m.Stop(t.Context(), id); err != nil || mc.State != machine.Stopped {
			t.Fatalf("stop: %+v, %v", mc, err)
		}
		if d := time.Since(begin); d < 3*time.Second || d > 10*time.Second {
			t.Errorf("it took %v", d)
		}
		requireClean(t, h)
	})
}

func TestManagerVMMEnds(t *testing.T) {
	for _, c := range []struct {
		name  string
		exit  machine.Exit
		state machine.State
		text  string
	}{
		{"power off", machine.Exit{Known: true, Console: "reboot: Power down"}, machine.Stopped, ""},
		{"killed", machine.Exit{Known: true, Code: -1, Signal: "SIGKILL", Console: "login:"}, machine.Failed, "by SIGKILL: login:"},
		{"own error", machine.Exit{Known: true, Code: 1, Console: "no memory"}, machine.Failed, "with status 1: no memory"},
		{"panic", machine.Exit{Known: true, Console: "Kernel panic - not syncing"}, machine.Failed, "Kernel panic"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := machinetest.NewHost(t)
				d := h.Daemon(t)
				m := newManager(t, d)
				id := started(t, m)
				begin := time.Now()
				h.End(id, c.exit)
				mc, err := m.Wait(t.Context(), id, c.state)
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(mc.ErrorMessage, c.text) || (mc.ErrorCode == "VMM_EXITED") != (c.state == machine.Failed) {
					t.Errorf("message %q, code %q", mc.ErrorMessage, mc.ErrorCode)
				}
				if time.Since(begin) > time.Second {
					t.Errorf("it took %v", time.Since(begin))
				}
				synctest.Wait()
				requireClean(t, h)
				if d.Handles() != 0 {
					t.Errorf("%d handles are open", d.Handles())
				}
				mustStart(t, m, id)
			})
		})
	}
}

func TestManagerImageStaysPinned(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := stopped(t, m)
	mc, err := m.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	pinned := mc.ImageDigest
	if !m.InUse()[pinned] {
		t.Error("the image of a stopped machine is not in use")
	}
	h.AddImage("alpine", nil) // the tag moves on
	for range 2 {
		if mc = mustStart(t, m, id); mc.ImageDigest != pinned {
			t.Fatalf("image %s, pinned %s", mc.ImageDigest, pinned)
		}
		if err := doStop(t, m, id); err != nil {
			t.Fatal(err)
		}
		h.EvictImages() // the second time it comes from the registry, by digest
	}
	other := started(t, m)
	if mc, err := m.Get(t.Context(), other); err != nil || mc.ImageDigest == pinned {
		t.Errorf("a new machine got the old image: %v", err)
	}
	if err := m.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if m.InUse()[pinned] {
		t.Error("the image of a deleted machine is in use")
	}
}

func TestManagerBaseIsGone(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	id := stopped(t, m)
	h.EvictImages()
	h.RemoveImage("alpine")
	_, err := m.Start(t.Context(), id)
	requireKind(t, err, errdefs.NotFound, "IMAGE_NOT_FOUND")
	requireClean(t, h)
}
