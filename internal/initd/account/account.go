// Package account finds out who a command runs as: it reads the guest's own
// passwd(5) and group(5), which are as hostile as the rest of an image, with
// bounds on everything. It changes no credentials itself.
package account

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnknown is wrapped by the errors for a user or group that does not exist.
var ErrUnknown = errors.New("unknown user or group")

// User is who a command runs as.
type User struct {
	Name   string // "" when the uid has no entry
	Home   string
	UID    uint32
	GID    uint32
	Groups []uint32 // supplementary, without GID
}

const (
	maxLine   = 64 << 10 // bytes; a group with thousands of members fits
	maxFile   = 16 << 20 // bytes read of a file
	maxGroups = 1024     // supplementary groups kept; Linux allows 65536
	maxID     = 1<<31 - 1
)

// Database is where the two files are. The zero value is /etc.
type Database struct {
	Dir string // folder with passwd and group; "" means /etc
}

// Lookup finds the user of a specification as OCI images and container engines
// have it: "", "name", "uid", "name:group", "uid:gid" and mixtures. A number
// needs no entry. Without a group, the primary one is the passwd entry's (0
// when there is none) and the supplementary ones are those that list the name.
func (db Database) Lookup(spec string) (User, error) {
	who, group, explicit := strings.Cut(spec, ":")
	if who == "" {
		who = "0"
	}
	u, err := db.user(who)
	if err != nil {
		return User{}, err
	}
	if explicit && group != "" {
		u.GID, err = db.group(group)
		return u, err
	}
	if u.Name != "" {
		u.Groups, err = db.supplementary(u)
	}
	return u, err
}

func (db Database) user(who string) (User, error) {
	uid, numeric := parseID(who)
	u, found := User{UID: uid, Home: "/"}, false
	err := db.each("passwd", 7, func(f []string) bool {
		id, ok := parseID(f[2])
		gid, gok := parseID(f[3])
		if !ok || !gok || f[0] != who && (found || !numeric || id != uid) {
			return true // of several names of one uid the first counts, as for getpwuid(3)
		}
		u, found = User{Name: f[0], UID: id, GID: gid, Home: f[5]}, true
		return f[0] != who // a name that looks like a number wins over the number
	})
	switch {
	case err != nil:
		return User{}, err
	case found:
		if u.Home == "" {
			u.Home = "/"
		}
		return u, nil
	case who == "root" || numeric && uid == 0:
		return User{Name: "root", Home: "/root"}, nil
	case numeric:
		return u, nil
	}
	return User{}, fmt.Errorf("user %q: %w", who, ErrUnknown)
}

func (db Database) group(name string) (uint32, error) {
	gid, numeric := parseID(name)
	found := numeric
	err := db.each("group", 4, func(f []string) bool {
		id, ok := parseID(f[2])
		if !ok || f[0] != name {
			return true
		}
		gid, found = id, true
		return false
	})
	switch {
	case err != nil:
		return 0, err
	case !found:
		return 0, fmt.Errorf("group %q: %w", name, ErrUnknown)
	}
	return gid, nil
}

func (db Database) supplementary(u User) ([]uint32, error) {
	var groups []uint32
	err := db.each("group", 4, func(f []string) bool {
		id, ok := parseID(f[2])
		if ok && id != u.GID && listed(f[3], u.Name) && !slices.Contains(groups, id) {
			groups = append(groups, id)
		}
		return len(groups) < maxGroups
	})
	return groups, err
}

func listed(members, name string) bool {
	for m := range strings.SplitSeq(members, ",") {
		if m == name {
			return true
		}
	}
	return false
}

func (db Database) path(file string) string {
	dir := db.Dir
	if dir == "" {
		dir = "/etc"
	}
	return dir + "/" + file
}

// each calls f with the fields of each well-formed line until f returns false.
// A missing file is an empty one.
func (db Database) each(file string, fields int, f func([]string) bool) error {
	fh, err := os.OpenFile(db.path(file), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	defer fh.Close()
	if st, err := fh.Stat(); err != nil || !st.Mode().IsRegular() {
		return fmt.Errorf("look up user: %s is not a regular file", file)
	}
	if err := eachLine(fh, fields, f); err != nil {
		return fmt.Errorf("look up user in %s: %w", file, err)
	}
	return nil
}

func eachLine(r io.Reader, fields int, f func([]string) bool) error {
	br := bufio.NewReaderSize(io.LimitReader(r, maxFile), 4096)
	var line []byte
	for long := false; ; {
		part, more, err := br.ReadLine()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if long = long || len(line)+len(part) > maxLine; !long {
			line = append(line, part...)
		}
		if more {
			continue
		}
		if cols := strings.SplitN(string(line), ":", fields+1); !long && len(cols) == fields && cols[0] != "" && !f(cols) {
			return nil
		}
		line, long = line[:0], false
	}
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n <= maxID
}
