package initd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
	"github.com/hyperfleet/hyperfleet/internal/initd/mount"
	"github.com/hyperfleet/hyperfleet/internal/initd/netconf"
	"github.com/hyperfleet/hyperfleet/internal/initd/process"
	"github.com/hyperfleet/hyperfleet/internal/initd/volume"
)

// system is the guest as init sees it. Setup and Shutdown are called by the
// agent, one after the other.
type system struct {
	log       *log.Logger
	initramfs bool
	reaper    *process.Reaper
	modules   *modules // of the initramfs; without one there are none

	groups atomic.Pointer[process.Groups] // read by the reaper, too; nil before and without cgroup2
	engine *command.Engine
	chores *chores
	first  int // O_PATH descriptor of the initramfs's root; -1 before and without one
}

// step is one part of the set-up; its name is what the host reads when it fails.
type step struct {
	name string
	do   func() error
}

func run(steps []step) error {
	for _, s := range steps {
		if err := s.do(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// early mounts what init needs to see the kernel, and loads the modules.
func (s *system) early() error {
	root, err := mount.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	if !s.initramfs {
		if err := unix.Mount("", "/", "", unix.MS_REMOUNT, ""); err != nil {
			s.log.Printf("remount / writable: %v", err)
		}
		if err := mount.Create(root, append(kernelTable(), rootTable(readOnly("/"))...)); err != nil {
			return err
		}
		s.setSwitches()
		return errors.Join(netconf.LoopbackUp(), nameItself())
	}
	if err := mount.Create(root, kernelTable()); err != nil {
		return err
	}
	if s.modules, err = openModules(modulesList, modulesDir); err != nil {
		return err
	}
	return s.modules.load()
}

// setup makes the guest what the host's boot message says, and returns what runs
// its commands. It runs once.
func (s *system) setup(b guestproto.Boot) (*command.Engine, error) {
	var steps []step
	if s.initramfs {
		steps = append(steps,
			step{"mount disks", func() error { return s.mountDisks(b.Overlay) }},
			step{"attach volumes", func() error { return s.attachVolumes(b) }},
			step{"switch root", s.switchRoot},
			step{"mount table", mountRootTable},
		)
	}
	steps = append(steps,
		step{"start command engine", s.startEngine},
		step{"configure network", func() error { return s.configureNetwork(b.Network) }},
	)
	if err := run(steps); err != nil {
		return nil, err
	}
	s.nameThings(b)
	s.chores = after(choresDelay, s.doChores)
	return s.engine, nil
}

// choresDelay is how long after the set-up init does what no command waits for.
// A machine is mostly made to run something at once: that goes first.
const choresDelay = 2 * time.Second

// doChores loads the rest of the modules, whose files it then removes with the
// rest of the initramfs.
func (s *system) doChores(stopped func() bool) {
	s.loadModules(stopped)
	if stopped() || s.first < 0 {
		return
	}
	for _, name := range []string{"hyperfleet", "init"} {
		if err := os.RemoveAll(fmt.Sprintf("/proc/self/fd/%d/%s", s.first, name)); err != nil {
			s.log.Printf("free the initramfs: %v", err)
		}
	}
}

func (s *system) mountDisks(overlay bool) error {
	root, err := mount.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	if err := awaitDevice(baseDevice); err != nil {
		return err
	}
	if !overlay {
		if err := plainRoot(false).Create(root); err == nil {
			return nil
		}
		return mount.Create(root, []mount.Creator{plainRoot(true)})
	}
	if err := awaitDevice(diskDevice); err != nil {
		return err
	}
	table := diskTable()
	last := len(table) - 1
	if err := mount.Create(root, table[:last]); err != nil {
		return err
	}
	if err := sameDirectory(diskDir+"/upper", baseDir); err != nil {
		return err
	}
	return mount.Create(root, table[last:])
}

func awaitDevice(path string) error {
	return await(context.Background(), func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", path, err)
		}
		return unix.Close(fd)
	})
}

// sameDirectory gives dir the owner and mode of like: the root of an overlay is
// that of its upper layer.
func sameDirectory(dir, like string) error {
	var st, have unix.Stat_t
	if err := unix.Stat(like, &st); err != nil {
		return err
	}
	if err := unix.Stat(dir, &have); err != nil {
		return err
	}
	if have.Uid == st.Uid && have.Gid == st.Gid && have.Mode == st.Mode {
		return nil
	}
	if err := unix.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

func (s *system) attachVolumes(b guestproto.Boot) error {
	if !b.Overlay {
		return nil // no disk of its own: the root holds them
	}
	root, err := mount.OpenRoot(newRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	return volume.Set{Store: diskDir + "/volumes", Root: root, Log: s.log}.Attach(guestproto.Strings(b.Volumes))
}

// switchRoot makes newRoot the root of this and all later processes. The disks
// stay mounted below it, out of sight, until shutdown comes back for them.
func (s *system) switchRoot() error {
	first, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	s.first = first
	if err := moveKernelMounts(); err != nil {
		return err
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// moveKernelMounts takes what kernelTable made to newRoot: to unmount it and to
// mount it again would cost two waits for RCU each.
func moveKernelMounts() error {
	root, err := mount.OpenRoot(newRoot)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := mount.Move(root, dir, dir); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	return nil
}

func mountRootTable() error {
	root, err := mount.OpenRoot("/")
	if err != nil {
		return err
	}
	defer root.Close()
	return mount.Create(root, rootTable(readOnly("/")))
}

func readOnly(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// startEngine makes what runs commands. Without cgroup2 commands are held
// together by their sessions.
func (s *system) startEngine() error {
	groups, err := process.OpenGroups(commandsDir)
	if err != nil {
		s.log.Printf("no control groups: %v", err)
	}
	memory := totalMemory()
	// The runtime's heap stays far below the guest's memory; see also the
	// budget of the commands' output.
	debug.SetMemoryLimit(max(memory/4, 16<<20))
	s.groups.Store(groups)
	s.engine = command.NewEngine(command.Config{
		Reaper: s.reaper, Groups: groups, Memory: max(memory/8, 4<<20), Log: s.log,
	})
	return nil
}

// loadModules loads modules that a boot need not wait for, until there is what
// the caller waits for.
func (s *system) loadModules(enough func() bool) {
	if err := s.modules.loadUntil(enough); err != nil {
		s.log.Printf("%v", err)
	}
}

// loadAll loads every module.
func (s *system) loadAll() { s.loadModules(func() bool { return false }) }

func totalMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 64 << 20 // the smallest guest that we support
	}
	return int64(info.Totalram) * int64(info.Unit)
}

func (s *system) configureNetwork(n *guestproto.BootNetwork) error {
	if err := netconf.LoopbackUp(); err != nil {
		s.log.Printf("%v", err) // a kernel without networking
	}
	if n == nil {
		return nil
	}
	s.loadModules(netconf.Present) // the interface's driver is among them
	cfg, err := netconf.Parse(n.Address, n.Gateway)
	if err != nil {
		return err
	}
	return await(context.Background(), func() error { return netconf.Apply(cfg) })
}

// nameThings writes what a guest can live without: errors are logged.
func (s *system) nameThings(b guestproto.Boot) {
	root, err := mount.OpenRoot("/")
	if err != nil {
		s.log.Printf("%v", err)
		return
	}
	defer root.Close()
	if name := b.Hostname; name != "" {
		if err := setHostname(root, name); err != nil {
			s.log.Printf("%v", err)
		}
	}
	if b.Network != nil && len(b.Network.DNS) > 0 {
		if err := setResolver(root, b.Network.DNS); err != nil {
			s.log.Printf("%v", err)
		}
	}
	s.setSwitches()
}

func (s *system) setSwitches() {
	for _, sw := range sysctls {
		err := os.WriteFile("/proc/sys/"+sw.path, []byte(sw.value), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Printf("set %s: %v", strings.ReplaceAll(sw.path, "/", "."), err)
		}
	}
}
