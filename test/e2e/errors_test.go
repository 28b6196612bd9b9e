//go:build vm

package e2e

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// failure is how something must go wrong.
type failure struct {
	is   error  // sentinel that the client's error matches
	code string // stable code
	says string // part of the message
}

func (want failure) check(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*hyperfleet.Error](err)
	if !ok {
		t.Errorf("err = %v, want one of the server's with code %s", err, want.code)
		return
	}
	if !errors.Is(err, want.is) || e.Code != want.code {
		t.Errorf("err = %v (status %d), want %s and %q", err, e.Status, want.code, want.is)
	}
	if !strings.Contains(e.Message, want.says) {
		t.Errorf("message %q does not say %q", e.Message, want.says)
	}
	if strings.ContainsAny(e.Message, "\n\r\x1b") || len(e.Message) > 1000 {
		t.Errorf("message is no line for people: %q", e.Message)
	}
}

type change = func(*hyperfleet.CreateMachineRequest)

// startFails makes a machine, whose start must fail as wanted and leave a
// failed machine that says so, and nothing else; then it is deleted.
func startFails(t *testing.T, h *hosttest.Host, image string, want failure, changes ...change) {
	t.Helper()
	held := heldFiles(t, h)
	m := h.Create("failing", image, changes...)
	checkFailed(t, h, m.ID, want)
	h.AssertNothingLeft()
	if got := heldFiles(t, h); !slices.Equal(got, held) {
		t.Errorf("the daemon holds %q, before the start %q", got, held)
	}
	if err := h.DeleteMachine(t.Context(), m.ID); err != nil {
		t.Errorf("delete the failed machine: %v", err)
	}
	h.AssertNothingLeft()
}

func checkFailed(t *testing.T, h *hosttest.Host, id string, want failure) {
	t.Helper()
	_, err := h.StartMachine(t.Context(), id)
	want.check(t, err)
	m, err := h.Machine(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if m.Status != hyperfleet.StatusFailed || m.ErrorCode != want.code || m.PID != nil || len(m.PortForwards) > 0 {
		t.Errorf("after the start: status %s, code %q, pid %v, forwards %v", m.Status, m.ErrorCode, m.PID, m.PortForwards)
	}
	if m.ErrorMessage == nil || !strings.Contains(*m.ErrorMessage, want.says) {
		t.Errorf("error_message is %q, want one that says %q", deref(m.ErrorMessage), want.says)
	}
}

func deref(s *string) string { return *cmp.Or(s, new(string)) }

// heldFiles are the daemon's open files that belong to machines.
func heldFiles(t *testing.T, h *hosttest.Host) []string {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.DaemonPID()))
	if err != nil {
		t.Fatal(err)
	}
	held := []string{}
	for _, link := range links {
		target, err := os.Readlink(link)
		if err != nil { // closed since
			continue
		}
		for _, of := range []string{"anon_inode:[pidfd]", "/memfd:", h.State + "/machines/", h.Run + "/machines/", "base/"} {
			if strings.Contains(target, of) {
				held = append(held, target)
			}
		}
	}
	slices.Sort(held)
	return held
}

// TestBootErrors lets a kernel, a guest and a root filesystem fail in all ways.
func TestBootErrors(t *testing.T) {
	allowed := t.TempDir()
	garbage := filepath.Join(allowed, "garbage")
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	if err := os.WriteFile(garbage, noise, 0o644); err != nil {
		t.Fatal(err)
	}
	h, image := hosttest.NewWithImage(t, "HYPERFLEET_ALLOWED_DIRS="+allowed, "HYPERFLEET_BOOT_TIMEOUT=25000")
	kernelArgs := func(args string) change {
		return func(r *hyperfleet.CreateMachineRequest) { r.KernelArgs = args }
	}
	for _, c := range []struct {
		name   string
		change change
		want   failure
	}{
		{"kernel panics", kernelArgs("rdinit=/nope"), failure{hyperfleet.ErrRuntime, "VMM_EXITED", "Kernel panic - not syncing"}},
		{"guest is silent", kernelArgs("hyperfleet.agent=serial:nobody"), failure{hyperfleet.ErrTimeout, "GUEST_TIMEOUT", "did not answer within 25s"}},
		{"kernel is garbage", func(r *hyperfleet.CreateMachineRequest) { r.KernelImagePath = garbage }, failure{hyperfleet.ErrRuntime, "VMM_BOOT_FAILED", "the VMM did not start: "}},
		{"command line is too long", kernelArgs(strings.Repeat("a=b ", 500)), failure{hyperfleet.ErrInvalid, "VALIDATION_ERROR", "kernel command line"}},
		{"root filesystem is garbage", func(r *hyperfleet.CreateMachineRequest) { r.Image, r.RootfsPath = "", garbage },
			failure{hyperfleet.ErrGuest, "GUEST_BOOT_FAILED", "mount disks"}},
	} {
		t.Run(c.name, func(t *testing.T) { startFails(t, h, image, c.want, c.change) })
	}
	if err := h.DeleteImage(t.Context(), image); err != nil {
		t.Errorf("a failed start keeps its image: %v", err)
	}
}

// TestFileErrors names files of the host that cannot be used.
func TestFileErrors(t *testing.T) {
	allowed := t.TempDir()
	h, image := hosttest.NewWithImage(t, "HYPERFLEET_ALLOWED_DIRS="+allowed)
	link := filepath.Join(allowed, "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	denied := failure{hyperfleet.ErrForbidden, "PATH_NOT_ALLOWED", "allowed folder"}
	for path, want := range map[string]failure{
		allowed + "/none":      {hyperfleet.ErrInvalid, "VALIDATION_ERROR", "not found"},
		allowed:                {hyperfleet.ErrInvalid, "VALIDATION_ERROR", "not found"},
		"/etc/passwd":          denied,
		link:                   denied,
		allowed + "/../passwd": {hyperfleet.ErrInvalid, "PATH_TRAVERSAL_ERROR", "traversal"},
		"vmlinux":              {hyperfleet.ErrInvalid, "PATH_TRAVERSAL_ERROR", "absolute"},
	} {
		t.Run(filepath.Base(path), func(t *testing.T) {
			_, err := h.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{
				Name: "kernel", VCPUCount: 1, MemSizeMiB: 128, Image: image, KernelImagePath: path,
			})
			want.check(t, err)
			_, err = h.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{
				Name: "rootfs", VCPUCount: 1, MemSizeMiB: 128, RootfsPath: path,
			})
			want.check(t, err)
		})
	}
	t.Run("gone since", func(t *testing.T) {
		kernel := filepath.Join(allowed, "vmlinux")
		if err := os.WriteFile(kernel, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		m := h.Create("gone", image, func(r *hyperfleet.CreateMachineRequest) { r.KernelImagePath = kernel })
		if err := os.Remove(kernel); err != nil {
			t.Fatal(err)
		}
		checkFailed(t, h, m.ID, failure{hyperfleet.ErrInvalid, "VALIDATION_ERROR", "Kernel image not found"})
		h.AssertNothingLeft()
	})
	if list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{}); err != nil || len(list) != 1 {
		t.Errorf("refused machines are recorded: %v, %v", list, err)
	}
}

// A machine that failed starts as soon as the reason is gone.
func TestStartAfterFailure(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Create("second-try", image)
	kernel := filepath.Join(h.State, "kernel")
	if err := os.Rename(kernel, kernel+".away"); err != nil {
		t.Fatal(err)
	}
	checkFailed(t, h, m.ID, failure{hyperfleet.ErrNotFound, "KERNEL_NOT_FOUND", "run `hyperfleet setup`"})
	h.AssertNothingLeft()
	if err := os.Rename(kernel+".away", kernel); err != nil {
		t.Fatal(err)
	}
	got, err := h.StartMachine(t.Context(), m.ID)
	if err != nil || got.Status != hyperfleet.StatusRunning || got.ErrorMessage != nil || got.ErrorCode != "" {
		t.Errorf("second try: %+v, %v", got, err)
	}
}

// TestHostErrors is about a host that lacks what machines need.
func TestHostErrors(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} { // VMMs run as other users
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dies := filepath.Join(dir, "dies")
	script := "#!/bin/sh\n[ \"$1\" = --version ] && echo 'QEMU emulator version 9.9.9' && exit\necho 'no memory for the guest' >&2\nexit 1\n"
	if err := os.WriteFile(dies, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	h, image := hosttest.NewWithImage(t)
	env := h.Env
	for _, c := range []struct {
		name, set string
		want      failure
	}{
		{"QEMU is not on PATH", "PATH=" + dir, failure{hyperfleet.ErrUnsupported, "QEMU_NOT_FOUND", "apt-get install"}},
		{"QEMU is not where it should be", "HYPERFLEET_QEMU_BIN=/nonexistent/qemu", failure{hyperfleet.ErrUnsupported, "QEMU_NOT_FOUND", "not installed"}},
		{"QEMU is another program", "HYPERFLEET_QEMU_BIN=/bin/true", failure{hyperfleet.ErrUnsupported, "QEMU_NOT_FOUND", "does not run"}},
		{"QEMU dies", "HYPERFLEET_QEMU_BIN=" + dies, failure{hyperfleet.ErrRuntime, "VMM_BOOT_FAILED", "no memory for the guest"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.StopDaemon()
			h.Env = append(slices.Clone(env), c.set) // the last value of a name counts
			h.StartDaemon()
			startFails(t, h, image, c.want)
		})
	}
}

// What no machine could do without is asked for when one is made.
func TestHostLacksBootFiles(t *testing.T) {
	h := hosttest.New(t)
	env := h.Env
	for set, want := range map[string]failure{
		"HYPERFLEET_KERNEL_IMAGE_PATH=/nonexistent/vmlinux": {hyperfleet.ErrInvalid, "KERNEL_IMAGE_NOT_FOUND", "/nonexistent/vmlinux"},
		"HYPERFLEET_INIT_PATH=/nonexistent/init":            {hyperfleet.ErrInvalid, "INIT_NOT_FOUND", "HYPERFLEET_INIT_PATH"},
	} {
		t.Run(want.code, func(t *testing.T) {
			h.StopDaemon()
			h.Env = append(slices.Clone(env), set)
			h.StartDaemon()
			_, err := h.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{
				Name: "none", VCPUCount: 1, MemSizeMiB: 128, Image: "localhost/none:1",
			})
			want.check(t, err)
		})
	}
}

// TestDiskFull fills, one after the other, each folder that a start writes to.
func TestDiskFull(t *testing.T) {
	h := hosttest.New(t)
	full := failure{hyperfleet.ErrExhausted, "DISK_FULL", "no disk space"}
	t.Run("images", func(t *testing.T) {
		h.StopDaemon()
		disk := mountSmall(t, filepath.Join(h.State, "images"), "size=1m")
		h.StartDaemon()
		_, err := h.ImportImage(t.Context(), hosttest.BusyboxImage, bytes.NewReader(busyboxArchive(t)))
		full.check(t, err)
		if left := filesUnder(t, disk, "lock"); len(left) > 0 {
			t.Errorf("left of the image: %q", left)
		}
		h.StopDaemon() // it holds the folder
	})
	h.StartDaemon()
	image := h.ImportBusybox()
	for _, c := range []struct{ name, dir, options string }{
		{"disks", filepath.Join(h.State, "machines"), "size=8k"},
		{"disks, no inodes", filepath.Join(h.State, "machines"), "nr_inodes=1"},
		{"sockets, no inodes", filepath.Join(h.Run, "machines"), "nr_inodes=1"},
		{"records", filepath.Join(h.Run, "machines"), "nr_inodes=5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			mountSmall(t, c.dir, c.options)
			startFails(t, h, image, full)
		})
	}
}

// mountSmall puts a tmpfs over a folder until the test ends.
func mountSmall(t *testing.T, dir, options string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("hyperfleet-test", dir, "tmpfs", 0, "mode=0700,"+options); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount tmpfs: %v", err)
			_ = unix.Unmount(dir, unix.MNT_DETACH)
		}
	})
	return dir
}

// filesUnder lists the files below dir, but for those of the given base names.
func filesUnder(t *testing.T, dir string, but ...string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !slices.Contains(but, e.Name()) {
			files = append(files, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A database that cannot grow refuses, and the daemon lives on.
func TestDatabaseFull(t *testing.T) {
	h := hosttest.New(t)
	h.StopDaemon()
	db := filepath.Join(h.State, "db")
	env := h.Env
	h.Env = append(slices.Clone(env), "DATABASE_PATH="+filepath.Join(db, "hyperfleet.db"))
	t.Run("full", func(t *testing.T) {
		mountSmall(t, db, "size=512k")
		h.StartDaemon()
		defer func() {
			h.StopDaemon()
			h.Env = env
		}()
		var err error
		var made int
		for ; made < 5000 && err == nil; made++ {
			_, err = h.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{
				Name: strings.Repeat("n", 255), VCPUCount: 1, MemSizeMiB: 128, Image: "localhost/none:1",
				Env: map[string]string{"A": strings.Repeat("x", 4<<10)},
			})
		}
		failure{hyperfleet.ErrExhausted, "DISK_FULL", "no disk space"}.check(t, err)
		list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{})
		if err != nil || len(list) != made-1 {
			t.Errorf("afterwards the daemon lists %d machines of %d: %v", len(list), made-1, err)
		}
	})
	h.StartDaemon()
}
