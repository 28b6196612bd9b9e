package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// makeDir makes a folder of ours, or makes sure that one that is there belongs
// to us and is open to nobody beyond mode. A symbolic link has to be ours as
// well: in a folder like /tmp, others could make us close and fill any folder of
// the host.
func makeDir(path string, mode os.FileMode) error {
	if err := ownLink(path); err != nil {
		return err
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return explainDir(path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return explainDir(path, err)
	}
	if int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("folder %s belongs to uid %d, not to us: run as that user, or set HYPERFLEET_STATE_DIR and HYPERFLEET_RUN_DIR", path, st.Uid)
	}
	if os.FileMode(st.Mode).Perm()&^mode == 0 {
		return nil
	}
	if err := os.Chmod(path, mode); err != nil {
		return explainDir(path, err)
	}
	return nil
}

// ownLink refuses a symbolic link that somebody else than we or root has made.
func ownLink(path string) error {
	var st unix.Stat_t
	err := unix.Lstat(filepath.Clean(path), &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return explainDir(path, err)
	case st.Mode&unix.S_IFMT == unix.S_IFLNK && st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("folder %s is a symbolic link of uid %d, not ours: remove it, or set HYPERFLEET_STATE_DIR and HYPERFLEET_RUN_DIR", path, st.Uid)
	}
	return nil
}

func explainDir(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("make folder %s: permission denied: run as root, or set HYPERFLEET_STATE_DIR and HYPERFLEET_RUN_DIR", path)
	}
	return fmt.Errorf("make folder %s: %w", path, err)
}

// emptyDir makes a folder that nobody else sees and removes what an earlier
// daemon left in it.
func emptyDir(path string) error {
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("sweep %s: %w", path, err)
	}
	return makeDir(path, 0o700)
}

// sweepSockets removes the sockets of dead engines from the run folder, whose
// lock the caller holds: nobody listens on them.
func sweepSockets(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep %s: %w", dir, err)
	}
	for _, e := range entries {
		if e.Type() != fs.ModeSocket {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("sweep %s: %w", dir, err)
		}
	}
	return nil
}

// protectSocket lets our user and a group connect to a socket; "" is our own
// group. The group comes first: nobody else ever has the mode.
func protectSocket(path, group string) error {
	if group != "" {
		gid, err := lookupGroup(group)
		if err != nil {
			return err
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return fmt.Errorf("give the socket to group %s: %w", group, err)
		}
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return fmt.Errorf("protect the socket: %w", err)
	}
	return nil
}

func lookupGroup(name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("HYPERFLEET_SOCKET_GROUP=%q: want the name or number of a group: %w", name, err)
	}
	return strconv.Atoi(g.Gid)
}

// lockDir takes the lock of a folder for this process. The lock ends with the
// process; the file in which it is stays, with the last owner's pid.
func lockDir(dir string) (unlock func() error, err error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		return nil, fmt.Errorf("another hyperfleet daemon%s uses %s: stop it, or set HYPERFLEET_STATE_DIR and HYPERFLEET_RUN_DIR", owner(f), dir)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f.Close, nil
}

// owner is the pid in a lock file, as a word of a sentence.
func owner(r io.Reader) string {
	raw, err := io.ReadAll(io.LimitReader(r, 32))
	pid := strings.TrimSpace(string(raw))
	if _, convErr := strconv.Atoi(pid); err != nil || convErr != nil {
		return ""
	}
	return " (pid " + pid + ")"
}
