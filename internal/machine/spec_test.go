package machine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestSpecValidate(t *testing.T) {
	limits := machine.Limits{MaxVCPUs: 8, MaxMemMiB: 4096, MaxDiskMiB: 8192}
	good := machine.Spec{Name: "x", VCPUs: 1, MemMiB: 4, DiskMiB: 64, Image: "alpine"}
	if err := good.Validate(limits); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		spoil   func(s *machine.Spec)
		message string
	}{
		{"no name", func(s *machine.Spec) { s.Name = "" }, "name must be"},
		{"long name", func(s *machine.Spec) { s.Name = strings.Repeat("x", 256) }, "name must be"},
		{"name with escape", func(s *machine.Spec) { s.Name = "a\x1b[2J" }, "name must be"},
		{"name no UTF-8", func(s *machine.Spec) { s.Name = "a\xff" }, "name must be"},
		{"no vcpu", func(s *machine.Spec) { s.VCPUs = 0 }, "vcpu_count must be 1 to 8"},
		{"many vcpus", func(s *machine.Spec) { s.VCPUs = 9 }, "vcpu_count must be 1 to 8"},
		{"little memory", func(s *machine.Spec) { s.MemMiB = 3 }, "mem_size_mib must be 4 to 4096"},
		{"much memory", func(s *machine.Spec) { s.MemMiB = 4097 }, "mem_size_mib"},
		{"small disk", func(s *machine.Spec) { s.DiskMiB = 63 }, "image_size_mib must be 64 to 8192"},
		{"large disk", func(s *machine.Spec) { s.DiskMiB = 8193 }, "image_size_mib"},
		{"negative disk", func(s *machine.Spec) { s.DiskMiB = -1 }, "image_size_mib"},
		{"long image", func(s *machine.Spec) { s.Image = strings.Repeat("x", 2000) }, "image must be"},
		{"port 0", func(s *machine.Spec) { s.ExposedPorts = []uint16{80, 0} }, "exposed_ports must be valid TCP ports"},
		{"many ports", func(s *machine.Spec) { s.ExposedPorts = make([]uint16, 65) }, "exposed_ports must be at most"},
		{"kernel arguments with newline", func(s *machine.Spec) { s.KernelArgs = "a\nb" }, "kernel_args"},
		{"env without =", func(s *machine.Spec) { s.Env = []string{"A"} }, "env must be"},
		{"env without name", func(s *machine.Spec) { s.Env = []string{"=a"} }, "env must be"},
		{"env with NUL", func(s *machine.Spec) { s.Env = []string{"A=\x00"} }, "env must be"},
		{"large env", func(s *machine.Spec) { s.Env = []string{"A=" + strings.Repeat("x", 200<<10)} }, "env must be at most"},
		{"traversal", func(s *machine.Spec) { s.KernelPath = "/a/../b" }, "Path traversal attempt detected"},
		{"encoded traversal", func(s *machine.Spec) { s.RootfsPath = "/a/%2E%2e/b" }, "Path traversal attempt detected"},
		{"path with NUL", func(s *machine.Spec) { s.RootfsPath = "/a\x00" }, "Path traversal attempt detected"},
		{"relative path", func(s *machine.Spec) { s.KernelPath = "a" }, "Path must be absolute"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good
			c.spoil(&s)
			err := s.Validate(limits)
			if !errdefs.Is(err, errdefs.Invalid) || !strings.Contains(errdefs.Public(err), c.message) {
				t.Errorf("error %v, want %q", err, c.message)
			}
		})
	}
}

func TestManagerCreateFiles(t *testing.T) {
	dir := t.TempDir()
	allowed := filepath.Join(dir, "allowed")
	for _, path := range []string{"allowed/vmlinux", "allowed/base.ext4", "secret"} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../secret", filepath.Join(allowed, "link")); err != nil {
		t.Fatal(err)
	}
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.AllowedDirs = []string{allowed} })
	for _, c := range []struct {
		name                  string
		image, kernel, rootfs string
		code                  string
	}{
		{"all allowed", "", allowed + "/vmlinux", allowed + "/base.ext4", ""},
		{"rootfs without effect", "alpine", "", "/etc/shadow", ""},
		{"kernel elsewhere", "alpine", dir + "/secret", "", "PATH_NOT_ALLOWED"},
		{"sibling with the same prefix", "alpine", allowed + "x", "", "PATH_NOT_ALLOWED"},
		{"link out of the folder", "", "", allowed + "/link", "PATH_NOT_ALLOWED"},
		{"absent", "alpine", allowed + "/none", "", "VALIDATION_ERROR"},
		{"folder", "alpine", allowed, "", "VALIDATION_ERROR"},
		{"neither image nor rootfs", "", "", "", "VALIDATION_ERROR"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := spec("x")
			s.Image, s.KernelPath, s.RootfsPath = c.image, c.kernel, c.rootfs
			mc, err := m.Create(t.Context(), machine.CreateRequest{Spec: s})
			if c.code != "" {
				if errdefs.CodeOf(err) != c.code || err == nil {
					t.Fatalf("error %v, want %s", err, c.code)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			mustStart(t, m, mc.ID)
			cfg, _ := h.Boot(mc.ID)
			if c.rootfs != "" && c.image == "" && cfg.Drives[0].Path != c.rootfs {
				t.Errorf("base is %s", cfg.Drives[0].Path)
			}
			if !cfg.Drives[0].ReadOnly || cfg.Drives[1].ReadOnly {
				t.Errorf("drives %+v", cfg.Drives)
			}
		})
	}
}

func TestManagerBootConfig(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.KernelArgs = "quiet" })
	s := spec("x")
	s.KernelArgs = "debug"
	s.Network.Enable = true
	mc := mustStart(t, m, mustCreate(t, m, s).ID)
	cfg, boot := h.Boot(mc.ID)
	if cfg.KernelArgs != "quiet debug" || cfg.UID != 900001 || cfg.GID != 900001 || cfg.Network.MAC.String() != "aa:fc:00:00:00:01" {
		t.Errorf("VM configuration %+v", cfg)
	}
	if boot.Hostname != string(mc.ID) || !boot.Overlay || len(boot.Volumes) != 1 || boot.Network.Address != "10.0.2.15/24" {
		t.Errorf("boot configuration %+v", boot)
	}
	plain := mustStart(t, m, mustCreate(t, m, spec("y")).ID)
	if cfg, boot := h.Boot(plain.ID); cfg.Network != nil || boot.Network != nil || plain.PortForwards != nil {
		t.Errorf("a machine without network has one: %+v, %+v", cfg, boot)
	}
}

func TestManagerExecRefuses(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	up, down := started(t, m), created(t, m)
	for _, c := range []struct {
		name    string
		id      machine.ID
		req     machine.ExecRequest
		kind    errdefs.Kind
		message string
	}{
		{"nothing", up, machine.ExecRequest{}, errdefs.Invalid, "command is required"},
		{"empty", up, machine.ExecRequest{Argv: []string{""}}, errdefs.Invalid, "command is required"},
		{"NUL", up, machine.ExecRequest{Argv: []string{"a\x00b"}}, errdefs.Invalid, "command must not contain NUL"},
		{"too long", up, machine.ExecRequest{Argv: []string{strings.Repeat("a", 1<<20)}}, errdefs.Invalid, "command must be at most"},
		{"bad id", up, machine.ExecRequest{ID: "../x", Argv: []string{"a"}}, errdefs.Invalid, "exec id"},
		{"bad env", up, machine.ExecRequest{Argv: []string{"a"}, Env: []string{"x"}}, errdefs.Invalid, "env must"},
		{"not running", down, machine.ExecRequest{Argv: []string{"a"}}, errdefs.Invalid, "Machine must be running to execute commands"},
		{"unknown", "nosuch", machine.ExecRequest{Argv: []string{"a"}}, errdefs.NotFound, "Machine not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := m.Exec(t.Context(), c.id, c.req)
			if !errdefs.Is(err, c.kind) || !strings.Contains(errdefs.Public(err), c.message) {
				t.Errorf("error %v, want %q", err, c.message)
			}
		})
	}
	if _, err := m.Guest(t.Context(), down); errdefs.Public(err) != "Machine must be running for file operations" {
		t.Errorf("error %v", err)
	}
}

// TestCreateNamesFiles has the contract's words for files of the host.
func TestCreateNamesFiles(t *testing.T) {
	allowed := t.TempDir()
	if err := os.WriteFile(allowed+"/there", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.AllowedDirs = []string{allowed} })
	for _, c := range []struct{ kernel, rootfs, want string }{
		{allowed + "/none", "", "Kernel image not found: " + allowed + "/none"},
		{allowed, "", "Kernel image not found: " + allowed},
		{"", allowed + "/none", "Rootfs image not found: " + allowed + "/none"},
		{"/none", "", "Kernel image is in no allowed folder: /none"},
		{"", "/etc/passwd", "Rootfs image is in no allowed folder: /etc/passwd"},
		{allowed + "/there", allowed + "/there", ""},
	} {
		s := spec("x")
		s.KernelPath, s.RootfsPath = c.kernel, c.rootfs
		if c.rootfs != "" {
			s.Image = ""
		}
		_, err := m.Create(t.Context(), machine.CreateRequest{Spec: s})
		if c.want == "" && err != nil || c.want != "" && errdefs.Public(err) != c.want {
			t.Errorf("kernel %q, rootfs %q: %v, want %q", c.kernel, c.rootfs, err, c.want)
		}
	}
}

// TestCreateChecksTheImage refuses what is no reference before there is a
// machine.
func TestCreateChecksTheImage(t *testing.T) {
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t))
	s := spec("x")
	s.Image = "Al pine"
	_, err := m.Create(t.Context(), machine.CreateRequest{Spec: s})
	requireKind(t, err, errdefs.Invalid, "INVALID_IMAGE_REF")
	if list, _, err := m.List(t.Context(), machine.Filter{}); err != nil || len(list) != 0 || len(m.InUse()) != 0 {
		t.Errorf("machines %v, images %v, %v", list, m.InUse(), err)
	}
}

// TestInUse follows the image of a machine through its life, and over daemons.
func TestInUse(t *testing.T) {
	h := machinetest.NewHost(t)
	first := h.Daemon(t)
	m := newManager(t, first)
	requireUse := func(when string, want ...string) {
		t.Helper()
		got := m.InUse()
		for _, w := range want {
			if !got[w] {
				t.Errorf("%s %v is in use, not %s", when, got, w)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s %v is in use", when, got)
		}
	}
	img := h.AddImage("app", nil)
	s := spec("x")
	s.Image = "app"
	id := mustCreate(t, m, s).ID
	requireUse("once created", "registry.test/app")
	first.Crash()
	m = newManager(t, h.Daemon(t))
	requireUse("after a crash", "registry.test/app")
	h.Behave(id, machinetest.Behaviour{BootError: errors.New("no")})
	if _, err := m.Start(t.Context(), id); err == nil {
		t.Fatal("the start did not fail")
	}
	requireUse("after a failed start", "registry.test/app")
	h.Behave(id, machinetest.Behaviour{})
	if _, err := m.Start(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	requireUse("while it runs", img.Digest)
	if err := m.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	requireUse("once it is deleted")
}

// TestStartLooksAtFilesAgain checks that a link which led to an allowed file
// when the machine was created leads to no other at its start.
func TestStartLooksAtFilesAgain(t *testing.T) {
	dir, allowed := t.TempDir(), t.TempDir()
	for _, name := range []string{dir + "/secret", allowed + "/base.ext4"} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := allowed + "/link"
	if err := os.Symlink(allowed+"/base.ext4", link); err != nil {
		t.Fatal(err)
	}
	h := machinetest.NewHost(t)
	m := newManager(t, h.Daemon(t), func(c *machine.Config) { c.AllowedDirs = []string{allowed} })
	s := spec("x")
	s.Image, s.RootfsPath = "", link
	mc := mustCreate(t, m, s)
	if err := errors.Join(os.Remove(link), os.Symlink(dir+"/secret", link)); err != nil {
		t.Fatal(err)
	}
	_, err := m.Start(t.Context(), mc.ID)
	requireKind(t, err, errdefs.Forbidden, "PATH_NOT_ALLOWED")
	requireClean(t, h)
}
