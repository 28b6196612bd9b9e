package process

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tree is a command with all its descendants. With a Group it is exactly the
// group's processes; without one (no cgroup2) it is the command's session and
// whatever descends from it, as far as /proc tells.
type Tree struct {
	leader *Process
	group  *Group // nil without cgroup2
}

// NewTree joins a started process, which leads a session of its own, and the
// group that it was started in, or nil.
func NewTree(leader *Process, group *Group) *Tree { return &Tree{leader: leader, group: group} }

// Kill ends every process of the tree.
func (t *Tree) Kill() error {
	if t.group != nil {
		return t.group.Kill()
	}
	// Stopped first, nobody sees another one die and goes on to something else.
	if err := t.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	return t.each(unix.SIGKILL)
}

// maxPasses bounds how often Signal looks again for processes that were forked
// while it went through the tree.
const maxPasses = 8

// Signal sends sig to every process of the tree once.
func (t *Tree) Signal(sig syscall.Signal) error {
	if sig == unix.SIGKILL {
		return t.Kill()
	}
	return t.each(sig)
}

func (t *Tree) each(sig syscall.Signal) error {
	seen := map[int]bool{}
	for range maxPasses {
		pids, err := t.members()
		if err != nil {
			return err
		}
		fresh := false
		for _, pid := range pids {
			if seen[pid] {
				continue
			}
			seen[pid], fresh = true, true
			if err := unix.Kill(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
		if !fresh {
			return nil
		}
	}
	return nil
}

func (t *Tree) members() ([]int, error) {
	if t.group != nil {
		return t.group.members()
	}
	return descendants(t.leader.PID)
}

// descendants lists the living processes of the session sid and those that
// descend from one of them.
func descendants(sid int) ([]int, error) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	parent, in := map[int]int{}, map[int]bool{}
	for _, d := range names {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue // gone
		}
		ppid, session, zombie := parseStat(string(stat))
		parent[pid] = ppid
		in[pid] = session == sid && !zombie
	}
	var pids []int
	for pid := range parent {
		for p, depth := pid, 0; p > 1 && depth < len(parent); p, depth = parent[p], depth+1 {
			if in[p] || p == sid {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// parseStat reads the parent, session and state of /proc/PID/stat (proc(5)).
// The command's name, in parentheses, may itself hold any character.
func parseStat(s string) (ppid, session int, zombie bool) {
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 4 {
		return 0, 0, false
	}
	ppid, _ = strconv.Atoi(f[1])
	session, _ = strconv.Atoi(f[3])
	return ppid, session, f[0] == "Z"
}
