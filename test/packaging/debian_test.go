//go:build host || vm

package packaging

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// bootScript makes a root file system the root of new namespaces, with the
// mounts that systemd wants of a container manager
// (https://systemd.io/CONTAINER_INTERFACE), and becomes systemd.
const bootScript = `set -eu
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for n in null zero full random urandom tty; do touch dev/$n; mount --bind /dev/$n dev/$n; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
pivot_root . mnt
umount -l mnt
export container=lxc
exec /lib/systemd/systemd --log-target=console --show-status=0
`

// debian is a Debian that runs in namespaces of its own.
type debian struct {
	t    *testing.T
	root string // its root file system, from outside
	pid  int    // of its systemd, from outside
}

// roots are root file systems as archives, by the packages in them beside
// Debian's minimum; each is made once for all tests.
var roots sync.Map

func rootArchive(t *testing.T, packages string) string {
	t.Helper()
	once, _ := roots.LoadOrStore(packages, sync.OnceValues(func() (string, error) {
		path := filepath.Join(shared, "root-"+rand.Text()+".tar")
		out, err := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", "--include="+packages, "bookworm", path).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("mmdebstrap: %w: %s", err, out)
		}
		return path, nil
	}))
	path, err := once.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// boot starts a clean Debian with systemd and the given packages. It ends, with
// all its processes, mounts and control groups, when the test does.
func boot(t *testing.T, packages ...string) *debian {
	t.Helper()
	d := &debian{t: t, root: t.TempDir()}
	archive := rootArchive(t, strings.Join(append([]string{"systemd", "systemd-sysv"}, packages...), ","))
	output(t, "tar", "-C", d.root, "--xattrs", "--xattrs-include=*", "-xpf", archive)
	group := newControlGroup(t)
	var log strings.Builder
	cmd := exec.Command("unshare", "--fork", "--kill-child", "--pid", "--mount", "--ipc", "--uts", "--net", "--cgroup",
		"--propagation", "private", "sh", "-c", bootScript, "sh", d.root)
	cmd.Stdout, cmd.Stderr = &log, &log
	// A new control group namespace begins at the group of who makes it.
	start := exec.Command("sh", append([]string{"-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, group}, cmd.Args...)...)
	start.Stdout, start.Stderr = &log, &log
	if err := start.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = start.Process.Kill() // and --kill-child ends its systemd, and that everything
		_ = start.Wait()
		removeControlGroup(t, group)
		if t.Failed() {
			t.Logf("systemd: %s", log.String())
		}
	})
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", start.Process.Pid)
	hosttest.Await(t, time.Minute, "systemd runs", func() error {
		b, err := os.ReadFile(children)
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(b), &d.pid); err != nil {
			return errors.New("not there yet")
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", d.pid)); err != nil || filepath.Base(exe) != "systemd" {
			return fmt.Errorf("process 1 is %q still", exe)
		}
		out, err := d.try("systemctl is-system-running")
		if got := strings.TrimSpace(out); got != "running" {
			return fmt.Errorf("the system is %s: %w", got, err)
		}
		return nil
	})
	return d
}

// newControlGroup makes a group in the unified hierarchy.
func newControlGroup(t *testing.T) string {
	t.Helper()
	base := "/sys/fs/cgroup"
	if _, err := os.Stat(base + "/unified/cgroup.procs"); err == nil {
		base += "/unified"
	}
	group := filepath.Join(base, "hyperfleet-test-"+strings.ToLower(rand.Text()[:8]))
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	return group
}

// removeControlGroup removes a group with those below it, once its last process
// is gone.
func removeControlGroup(t *testing.T, group string) {
	t.Helper()
	hosttest.Await(t, 30*time.Second, "the control group is empty", func() error {
		var dirs []string
		err := filepath.WalkDir(group, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		for _, dir := range slices.Backward(dirs) {
			err = errors.Join(err, os.Remove(dir))
		}
		return err
	})
}

// try runs a script inside, and returns what it wrote to both outputs.
func (d *debian) try(script string) (string, error) {
	cmd := exec.Command("nsenter", "--target", fmt.Sprint(d.pid), "--all", "env", "-i",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/root", "sh", "-c", script)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// run is try of a script that must succeed.
func (d *debian) run(script string) string {
	d.t.Helper()
	out, err := d.try(script)
	if err != nil {
		d.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return out
}

// check fails the test when a script's output is another.
func (d *debian) check(script, want string) {
	d.t.Helper()
	if got := strings.TrimSpace(d.run(script)); got != want {
		d.t.Errorf("%s:\n got %q\nwant %q", script, got, want)
	}
}

// exists reports whether there is a file inside.
func (d *debian) exists(path string) bool {
	_, err := d.try("test -e " + path)
	return err == nil
}

// put copies a file of ours to /root inside.
func (d *debian) put(path, name string) {
	d.t.Helper()
	output(d.t, "cp", "-a", path, filepath.Join(d.root, "root", name))
}

func output(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
	return string(out)
}
