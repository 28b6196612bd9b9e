//go:build vm

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guest"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/qemu"
)

// TestDirectBoot boots a root filesystem that `make guest-install` has put init
// into, as a kernel with built-in drivers does: init finds the root mounted.
func TestDirectBoot(t *testing.T) {
	disk := directDisk(t)
	t.Run("with a host", func(t *testing.T) { directWithHost(t, disk) })
	t.Run("without a host", func(t *testing.T) { directWithoutHost(t, disk) })
}

func directWithHost(t *testing.T, disk string) {
	vm := bootDirect(t, disk, "")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	sessions := guest.New(context.Background(), slog.New(slog.NewTextHandler(t.Output(), nil)))
	g := sessions.Open("direct", machine.BootConfig{Hostname: "direct", Env: []string{"GREETING=hello"}}, vm.DialAgent, nil)
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	go func() { // it ends with ctx
		select {
		case <-vm.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := g.Ready(ctx); err != nil {
		t.Fatalf("ready: %v\n%s", err, consoleOf(t, vm))
	}
	for _, c := range []struct{ script, want string }{
		{"echo $GREETING; hostname", "hello\ndirect\n"},
		{"readlink /proc/1/exe; test -e /hyperfleet || echo hidden", "/init\nhidden\n"},
		{"grep -c ' / / ' /proc/self/mountinfo", "1\n"},
		{"for m in /proc /sys /dev /dev/pts /dev/shm /run /sys/fs/cgroup; do grep -q \" $m \" /proc/self/mountinfo || echo no $m; done", ""},
		{"ls /root", "from-image\n"},
	} {
		if got := directOutput(ctx, t, g, c.script); got != c.want {
			t.Errorf("%s: %q, want %q", c.script, got, c.want)
		}
	}
	content := strings.Repeat("direct\n", 50_000)
	if _, err := g.WriteFile(ctx, "/root/file", 0o640, strings.NewReader(content)); err != nil {
		t.Error(err)
	}
	_, r, err := g.ReadFile(ctx, "/root/file")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != content {
		t.Errorf("read %d bytes back, want %d: %v", len(got), len(content), err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Shutdown(ctx, 5*time.Second); err != nil {
		t.Errorf("shut down: %v", err)
	}
	awaitEnd(t, vm)
	checkDisk(t, disk)
	if got := onDisk(t, disk, "/root/file"); got != content {
		t.Errorf("after the shutdown the disk has %d bytes of the file, want %d", len(got), len(content))
	}
}

// Without a host init still keeps the system, reaps, and ends it when told to.
func directWithoutHost(t *testing.T, disk string) {
	vm := bootDirect(t, disk, "hyperfleet.agent=none standin.term")
	awaitEnd(t, vm)
	if out := consoleOf(t, vm); !strings.Contains(out, "hyperfleet-init") || !strings.Contains(out, "hyperfleet.agent=none") {
		t.Errorf("the console does not say that there is no host:\n%s", out)
	}
	checkDisk(t, disk)
	if got := onDisk(t, disk, "/root/proof"); got != "written\n" {
		t.Errorf("what was written before the end: %q", got)
	}
}

// directDisk is a root filesystem of busybox with our init.
func directDisk(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "etc", "root"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	imagetest.Run(t, "cp", "/bin/busybox", filepath.Join(root, "bin"))
	for applet := range strings.FieldsSeq(imagetest.Run(t, "/bin/busybox", "--list")) {
		if applet == "busybox" {
			continue
		}
		if err := os.Symlink("busybox", filepath.Join(root, "bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "root/from-image": ""} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	imagetest.Run(t, "make", "-C", "../..", "guest-install", "ROOTFS="+root)
	disk := filepath.Join(t.TempDir(), "root.ext4")
	imagetest.Run(t, "mkfs.ext4", "-q", "-d", root, disk, "96M")
	return disk
}

// bootDirect boots the disk as the root, with drivers that seem built in.
func bootDirect(t *testing.T, disk, args string) machine.VM {
	t.Helper()
	files, err := kerneltest.Make(t.Context(), "github.com/hyperfleet/hyperfleet/test/e2e/standin")
	if err != nil {
		t.Fatal(err)
	}
	runDir, err := os.MkdirTemp("/tmp", "hf-direct-")
	if err != nil {
		t.Fatal(err)
	}
	driver := qemu.New(qemu.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	cfg := machine.VMConfig{
		ID: "direct", RunDir: filepath.Join(runDir, "direct"), UID: 999_001, GID: 999_001, VCPUs: 1, MemMiB: 128,
		KernelPath: files.KernelPath, InitrdPath: files.InitrdPath, KernelArgs: args,
		Drives: []machine.Drive{{ID: "root", Path: disk}},
	}
	t.Cleanup(func() {
		if err := errors.Join(driver.Release(context.Background(), cfg), os.RemoveAll(runDir)); err != nil {
			t.Error(err)
		}
	})
	if err := driver.Prepare(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	vm, err := driver.Boot(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(vm.Kill(context.Background()), vm.Close()); err != nil {
			t.Error(err)
		}
	})
	return vm
}

func directOutput(ctx context.Context, t *testing.T, g machine.Guest, script string) string {
	t.Helper()
	p, err := g.Exec(ctx, machine.ExecRequest{ID: "run-" + strings.ToLower(rand.Text()), Argv: []string{"sh", "-c", script}})
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	defer p.Close()
	var stderr bytes.Buffer
	drained := make(chan error, 1)
	go func() { _, err := stderr.ReadFrom(p.Stderr()); drained <- err }()
	out, err := io.ReadAll(p.Stdout())
	if err := errors.Join(err, <-drained); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	if status, err := p.Wait(ctx); err != nil || stderr.Len() > 0 {
		t.Errorf("%s: %+v, %v, %s", script, status, err, stderr.Bytes())
	}
	return string(out)
}

// awaitEnd waits for a VMM that its guest ends.
func awaitEnd(t *testing.T, vm machine.VM) {
	t.Helper()
	select {
	case <-vm.Done():
	case <-time.After(2 * time.Minute):
		t.Fatalf("the guest did not end:\n%s", consoleOf(t, vm))
	}
	if exit := vm.Exit(); !exit.Known || exit.Code != 0 {
		t.Errorf("the VMM ended with %+v:\n%s", exit, consoleOf(t, vm))
	}
}

func consoleOf(t *testing.T, vm machine.VM) string {
	t.Helper()
	f, err := vm.Console()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// checkDisk makes sure that the file system was left clean: its journal is empty.
func checkDisk(t *testing.T, disk string) {
	t.Helper()
	imagetest.Run(t, "e2fsck", "-fn", disk)
	if out := imagetest.Run(t, "dumpe2fs", "-h", disk); strings.Contains(out, "needs_recovery") {
		t.Error("the file system was not made safe: its journal holds changes")
	}
}

func onDisk(t *testing.T, disk, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "debugfs", "-R", "cat "+name, disk).Output()
	if err != nil {
		t.Fatalf("debugfs: %v", err)
	}
	return string(out)
}
