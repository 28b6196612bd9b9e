package vmmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// testIsolation looks at the VMM from outside: what a guest that has taken it
// over would find.
func testIsolation(t *testing.T, s Suite) {
	// Descriptors of ours that a careless start would leak.
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o600))
	f, err := os.Open(secret)
	must(t, err)
	defer f.Close()

	cfg := s.config(t)
	g := s.boot(t, cfg)
	g.ask("hello")
	pid := g.vm.Process().PID

	status := procFile(t, pid, "status")
	for _, want := range []string{uidLine(cfg.UID), "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "Groups:\t \n"} {
		if !strings.Contains(status, want) {
			t.Errorf("status lacks %q", want)
		}
	}
	if !strings.Contains(status, "Seccomp:\t2") {
		t.Error("no system call filter")
	}
	if stat := strings.Fields(procFile(t, pid, "stat")); stat[5] != fmt.Sprint(pid) {
		t.Errorf("session is %s, not its own", stat[5])
	}
	if limits := procFile(t, pid, "limits"); !strings.Contains(strings.Join(strings.Fields(limits), " "), "Max core file size 0 ") {
		t.Errorf("it may dump core: %s", limits)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != "/" {
		t.Errorf("working directory is %q: %v", cwd, err)
	}
	if env := procFile(t, pid, "environ"); strings.Count(env, "\x00") > 1 {
		t.Errorf("environment is %q", env)
	}
	allowed := []string{cfg.KernelPath, cfg.InitrdPath, cfg.Drives[0].Path, cfg.Drives[1].Path, os.DevNull}
	for _, f := range filesOf(t, pid) {
		if !strings.HasPrefix(f.target, "/") || strings.HasPrefix(f.target, "/memfd:hyperfleet-") {
			continue // a socket, an event, or its own output
		}
		if !contains(allowed, f.target) {
			t.Errorf("it holds %s", f.target)
		}
		if f.writable && !contains([]string{cfg.Drives[1].Path}, f.target) {
			t.Errorf("it can write %s", f.target)
		}
	}
	// What it could open by name is what any stranger on the host could.
	info, err := os.Stat(cfg.RunDir)
	must(t, err)
	if owner := info.Sys().(*syscall.Stat_t).Uid; info.Mode().Perm() != 0o700 || int(owner) != os.Geteuid() {
		t.Errorf("run directory is %v of user %d", info.Mode(), owner)
	}
	// Writes past the disk's end stay in the guest.
	if _, err := g.try("write /dev/vdb %d 00", 2<<20); err == nil {
		t.Error("the guest wrote past the end of its disk")
	}
	disk, err := os.Stat(cfg.Drives[1].Path)
	must(t, err)
	if disk.Size() != 2<<20 {
		t.Errorf("the disk has %d bytes", disk.Size())
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if target, err := filepath.EvalSymlinks(l); err == nil && target == s {
			return true
		}
	}
	return false
}

// openFile is one descriptor of a process.
type openFile struct {
	target   string
	writable bool
}

// filesOf lists what a process holds open: /proc/PID/fd and fdinfo in proc(5).
func filesOf(t *testing.T, pid int) []openFile {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(dir + "fd")
	must(t, err)
	var files []openFile
	for _, e := range entries {
		target, err := os.Readlink(dir + "fd/" + e.Name())
		if err != nil {
			continue // closed meanwhile
		}
		info, err := os.ReadFile(dir + "fdinfo/" + e.Name())
		if err != nil {
			continue
		}
		var pos int64
		var flags int
		if _, err := fmt.Sscanf(string(info), "pos:\t%d\nflags:\t%o", &pos, &flags); err != nil {
			t.Fatal(err)
		}
		files = append(files, openFile{target, flags&(os.O_WRONLY|os.O_RDWR) != 0})
	}
	if len(files) == 0 {
		t.Fatal("no descriptors seen")
	}
	return files
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	must(t, err)
	return string(b)
}
