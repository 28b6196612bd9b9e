package vmmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	for _, target := range filesOf(t, pid) {
		if strings.HasPrefix(target, "/") && !strings.HasPrefix(target, "/memfd:hyperfleet-") && !contains(allowed, target) {
			t.Errorf("it holds %s", target)
		}
	}
	if held := writable(t, pid, cfg.Drives[0].Path); held {
		t.Error("it holds the base for writing")
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if real, err := filepath.EvalSymlinks(l); err == nil && real == s {
			return true
		}
	}
	return false
}

// filesOf lists what a process holds open.
func filesOf(t *testing.T, pid int) []string {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	var targets []string
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil {
			targets = append(targets, target)
		}
	}
	if len(targets) == 0 {
		t.Fatal("no descriptors seen")
	}
	return targets
}

// writable reports whether a process holds path open for writing: fdinfo in
// proc(5).
func writable(t *testing.T, pid int, path string) bool {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, l := range links {
		if target, err := os.Readlink(l); err != nil || target != path {
			continue
		}
		info, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(l)), "fdinfo", filepath.Base(l)))
		must(t, err)
		var pos int64
		var flags int
		if _, err := fmt.Sscanf(string(info), "pos:\t%d\nflags:\t%o", &pos, &flags); err != nil {
			t.Fatal(err)
		}
		if flags&(os.O_WRONLY|os.O_RDWR) != 0 {
			return true
		}
	}
	return false
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	must(t, err)
	return string(b)
}
