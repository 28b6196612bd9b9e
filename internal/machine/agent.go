package machine

import (
	"context"
	"crypto/rand"
	"regexp"
	"strings"
	"time"
)

// Bounds of one command; the guest's kernel refuses more (execve(2), "Limits
// on size of arguments and environment").
const (
	maxArgs     = 4096
	maxArgBytes = 128 << 10
)

// execStart bounds the start of a command, so that a guest that stands still
// holds nobody for ever. Two thousand starts at once on a busy host under
// emulation took less than two minutes.
const execStart = 5 * time.Minute

var execIDPattern = regexp.MustCompile(`^[0-9A-Za-z_-]{1,64}$`)

// Exec starts a command in the guest; ctx bounds the start only. An empty
// req.ID gets one. It fails with errdefs.Invalid when the machine is not
// running. The caller closes the Process.
func (m *Manager) Exec(ctx context.Context, id ID, req ExecRequest) (Process, error) {
	l, err := m.mustRun(ctx, id, "execute commands")
	if err != nil {
		return nil, err
	}
	if req.ID == "" {
		req.ID = rand.Text()
	}
	if err := req.validate(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, execStart)
	defer cancel()
	return l.guest.Exec(ctx, req)
}

func (r ExecRequest) validate() error {
	switch {
	case len(r.Argv) == 0 || r.Argv[0] == "":
		return invalid("command is required")
	case !execIDPattern.MatchString(r.ID):
		return invalid("exec id must match %s", execIDPattern)
	case len(r.Argv) > maxArgs:
		return invalid("command must be at most %d arguments", maxArgs)
	case r.Timeout < 0:
		return invalid("timeout must not be negative")
	}
	size := len(r.WorkDir) + len(r.User)
	for _, s := range r.Argv {
		size += len(s)
		if strings.ContainsRune(s, 0) {
			return invalid("command must not contain NUL")
		}
	}
	if size > maxArgBytes {
		return invalid("command must be at most %d bytes", maxArgBytes)
	}
	return checkEnv(r.Env)
}

// AttachExec resumes a command by its id; see Guest.Attach.
func (m *Manager) AttachExec(ctx context.Context, id ID, execID string, from Offsets) (Process, error) {
	l, err := m.mustRun(ctx, id, "execute commands")
	if err != nil {
		return nil, err
	}
	if !execIDPattern.MatchString(execID) {
		return nil, invalid("exec id must match %s", execIDPattern)
	}
	return l.guest.Attach(ctx, execID, from)
}

// Guest returns the machine's agent session for file calls, or errdefs.Invalid
// when the machine is not running. The caller must not close it.
func (m *Manager) Guest(ctx context.Context, id ID) (Guest, error) {
	l, err := m.mustRun(ctx, id, "")
	if err != nil {
		return nil, err
	}
	return l.guest, nil
}

// mustRun returns the live VM of a running machine. what is what the caller
// wants of it, "" for files. It takes no lock that an operation holds.
func (m *Manager) mustRun(ctx context.Context, id ID, what string) (*live, error) {
	if e := m.lookup(id); e != nil {
		if l := e.running(); l != nil {
			return l, nil
		}
	}
	mc, err := m.cfg.Store.Machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if what == "" {
		what = "for file operations"
	} else {
		what = "to " + what
	}
	return nil, NotRunningError(mc.State, what)
}

// NotRunningError refuses what needs a running machine, in the contract's
// words; what is "to execute commands", say.
func NotRunningError(is State, what string) error {
	if is == Paused {
		return invalid("Machine must be running %s: it is paused, resume it first", what)
	}
	return invalid("Machine must be running %s", what)
}

func (m *Manager) lookup(id ID) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.entries[id]
}
