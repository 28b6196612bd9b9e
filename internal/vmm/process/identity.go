package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Identity names a process beyond the reuse of its pid.
type Identity struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // field 22 of /proc/PID/stat, clock ticks since boot
	Exe       string `json:"exe"`        // target of /proc/PID/exe
	BootID    string `json:"boot_id"`    // /proc/sys/kernel/random/boot_id
}

// identify reads the identity of a process that cannot be reaped meanwhile.
// A process that has ended already has no executable: exe stands in.
func identify(pid int, exe string) (Identity, error) {
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	st, err := readStat(pid)
	if err != nil {
		return Identity{}, err
	}
	if e, err := readExe(pid); err == nil {
		exe = e
	}
	return Identity{PID: pid, StartTime: st.startTime, Exe: exe, BootID: boot}, nil
}

// Find lists the living processes whose argument vector match accepts and
// whose real user is uid (any, when uid is 0).
func Find(uid int, match func(argv []string) bool) ([]Identity, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var found []Identity
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid <= 1 {
			continue
		}
		if st, err := readStat(pid); err != nil || st.ended {
			continue
		}
		if uid != 0 && !ownedBy(pid, uid) {
			continue
		}
		cmdline, err := os.ReadFile(procPath(pid, "cmdline"))
		if err != nil || !match(strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")) {
			continue
		}
		if id, err := identify(pid, ""); err == nil {
			found = append(found, id)
		}
	}
	return found, nil
}

type stat struct {
	ended     bool
	startTime uint64
}

// readStat reads /proc/PID/stat: proc_pid_stat(5).
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return stat{}, gone(err)
	}
	return parseStat(b)
}

// parseStat reads the state (field 3) and the start time (field 22). Field 2
// is the program's name, which may hold spaces and parentheses.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	if i < 0 || len(fields) < 20 {
		return stat{}, errors.New("parse process status: too few fields")
	}
	start, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("parse process status: %w", err)
	}
	state := string(fields[0])
	return stat{ended: state == "Z" || state == "X", startTime: start}, nil
}

// readExe reads which file a process executes. The file may have been replaced
// by a package upgrade since: the process is the same.
func readExe(pid int) (string, error) {
	exe, err := os.Readlink(procPath(pid, "exe"))
	if err != nil {
		return "", gone(err)
	}
	return strings.TrimSuffix(exe, " (deleted)"), nil
}

func ownedBy(pid, uid int) bool {
	b, err := os.ReadFile(procPath(pid, "status"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nUid:")
	line, _, _ := strings.Cut(rest, "\n")
	ids := strings.Fields(line)
	return len(ids) > 0 && ids[0] == strconv.Itoa(uid)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func procPath(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	return err
}
