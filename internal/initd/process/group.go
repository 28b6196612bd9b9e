package process

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// poolSize is how many groups are made ahead of time, so that mkdir is not
// part of a command's start.
const poolSize = 8

// sweepDelay keeps the removal of groups, and the making of new ones, off the
// path of the answer to the command that has ended, and gathers it.
const sweepDelay = 20 * time.Millisecond

// Groups makes control groups (cgroup2), one for each command, and removes
// them when their last process is gone, which may be long after the command
// itself has ended.
type Groups struct {
	dir   string
	ready chan *Group
	stop  chan struct{}
	kick  chan struct{}
	wg    sync.WaitGroup

	mu      sync.Mutex
	next    int
	leaving []*Group // released, not removed yet
}

// Group is one control group. It belongs to one command; Release ends its use.
type Group struct {
	dir    string
	f      *os.File
	groups *Groups
}

// OpenGroups makes the directory dir in a mounted cgroup2 and starts to fill
// the pool. It fails where dir's file system is no cgroup2. Close ends it.
func OpenGroups(dir string) (*Groups, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(dir), &st); err != nil {
		return nil, fmt.Errorf("control groups at %s: %w", dir, err)
	}
	if int64(st.Type) != unix.CGROUP2_SUPER_MAGIC {
		return nil, fmt.Errorf("control groups at %s: %w", dir, errors.ErrUnsupported)
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("control groups: %w", err)
	}
	g := &Groups{
		dir:   dir,
		ready: make(chan *Group, poolSize),
		stop:  make(chan struct{}),
		kick:  make(chan struct{}, 1),
	}
	g.wg.Go(g.tidy)
	return g, nil
}

// Close stops making and removing groups and waits for that to end. Groups in
// use stay valid.
func (g *Groups) Close() {
	close(g.stop)
	g.wg.Wait()
	for {
		select {
		case grp := <-g.ready:
			grp.remove()
		default:
			g.removeLeaving()
			return
		}
	}
}

// Take returns a group for one command.
func (g *Groups) Take() (*Group, error) {
	select {
	case grp := <-g.ready:
		return grp, nil
	default:
		g.Sweep() // fills the pool, too
		return g.make()
	}
}

// Sweep removes released groups whose processes are gone, soon.
func (g *Groups) Sweep() {
	select {
	case g.kick <- struct{}{}:
	default:
	}
}

// fill makes groups until there are n in the pool.
func (g *Groups) fill(n int) {
	for len(g.ready) < n {
		grp, err := g.make()
		if err != nil {
			return // Take will tell
		}
		g.ready <- grp
	}
}

func (g *Groups) make() (*Group, error) {
	g.mu.Lock()
	g.next++
	n := g.next
	g.mu.Unlock()
	dir := filepath.Join(g.dir, strconv.Itoa(n))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("control group: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("control group: %w", err)
	}
	return &Group{dir: dir, f: os.NewFile(uintptr(fd), dir), groups: g}, nil
}

// tidy is the goroutine that fills the pool, and alone puts groups into it. A
// guest that comes up gets one group: its first command is waited for, and may
// well be the only one.
func (g *Groups) tidy() {
	for n := 1; ; n = poolSize {
		g.fill(n)
		select {
		case <-g.kick:
		case <-g.stop:
			return
		}
		select {
		case <-time.After(sweepDelay):
		case <-g.stop:
			return
		}
		g.removeLeaving()
	}
}

func (g *Groups) removeLeaving() {
	g.mu.Lock()
	leaving := g.leaving
	g.leaving = nil
	g.mu.Unlock()
	var stay []*Group
	for _, grp := range leaving {
		if !grp.remove() {
			stay = append(stay, grp)
		}
	}
	g.mu.Lock()
	g.leaving = append(g.leaving, stay...)
	g.mu.Unlock()
}

// FD is the group's descriptor for clone3(2) with CLONE_INTO_CGROUP.
func (grp *Group) FD() int { return int(grp.f.Fd()) }

// Release gives the group back: it is removed once it has no process.
func (grp *Group) Release() {
	g := grp.groups
	g.mu.Lock()
	g.leaving = append(g.leaving, grp)
	g.mu.Unlock()
	g.Sweep()
}

// remove reports whether the group is gone. A command may have made groups
// inside its own; they go first.
func (grp *Group) remove() bool {
	if err := removeGroup(grp.dir, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	grp.f.Close()
	return true
}

// maxGroupDepth bounds how deep groups inside a command's group are followed.
const maxGroupDepth = 16

func removeGroup(dir string, depth int) error {
	err := unix.Rmdir(dir)
	if !errors.Is(err, unix.EBUSY) || depth == maxGroupDepth {
		return err
	}
	for _, sub := range subGroups(dir) {
		if err := removeGroup(sub, depth+1); err != nil {
			return err
		}
	}
	return unix.Rmdir(dir)
}

func subGroups(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var subs []string
	for _, e := range entries {
		if e.IsDir() {
			subs = append(subs, filepath.Join(dir, e.Name()))
		}
	}
	return subs
}

// Kill ends every process in the group and in groups below it.
func (grp *Group) Kill() error {
	err := writeControl(filepath.Join(grp.dir, "cgroup.kill"), "1")
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return grp.killEach() // Linux before 5.14
}

// killEach freezes the group, so that nothing forks meanwhile; a frozen process
// can be killed (cgroup-v2.rst).
func (grp *Group) killEach() error {
	freeze := filepath.Join(grp.dir, "cgroup.freeze")
	if err := writeControl(freeze, "1"); err != nil {
		return err
	}
	pids, err := grp.members()
	for _, pid := range pids {
		if kerr := unix.Kill(pid, unix.SIGKILL); kerr != nil && !errors.Is(kerr, unix.ESRCH) {
			err = errors.Join(err, kerr)
		}
	}
	return errors.Join(err, writeControl(freeze, "0"))
}

func (grp *Group) members() ([]int, error) { return groupMembers(grp.dir, 0) }

func groupMembers(dir string, depth int) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(b)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	if depth == maxGroupDepth {
		return pids, nil
	}
	for _, sub := range subGroups(dir) {
		more, err := groupMembers(sub, depth+1)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		pids = append(pids, more...)
	}
	return pids, nil
}

func writeControl(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
