package machine

import (
	"context"
	"io"
	"io/fs"
	"net"
	"time"
)

// Guests opens agent sessions. The implementation is package guest.
type Guests interface {
	// Open starts the session of one machine and returns at once. dial is
	// called for the first connection and again after each break, until Close.
	// note, unless nil, is told what becomes of the session, in words for the
	// machine's log.
	Open(id ID, boot BootConfig, dial func(ctx context.Context) (net.Conn, error), note func(event string)) Guest
}

// BootConfig is what the guest's init is told in the first session of a boot.
// It is sent again, and ignored, when the session is made anew.
type BootConfig struct {
	Hostname string        `json:"hostname"`
	Overlay  bool          `json:"overlay"`           // join the read-only base with the machine's disk
	Volumes  []string      `json:"volumes,omitempty"` // the image's volume paths, absolute and clean
	Network  *GuestNetwork `json:"network,omitempty"`
	Env      []string      `json:"env,omitempty"` // default environment of every exec, K=V
	WorkDir  string        `json:"work_dir,omitempty"`
	User     string        `json:"user,omitempty"` // default user: name, uid, or uid:gid
}

// GuestNetwork is how the guest sets up its interface.
type GuestNetwork struct {
	Address string   `json:"address"` // CIDR
	Gateway string   `json:"gateway"`
	DNS     []string `json:"dns"`
}

// Guest is the host's end of one machine's agent session. It survives breaks
// of the connection: calls wait for the session, bounded by their context.
// All methods are safe for concurrent use. Nothing that the guest says is
// trusted: every length is bounded.
type Guest interface {
	// Ready blocks until the guest has set itself up as its BootConfig says,
	// and returns the guest's own error when it could not.
	Ready(ctx context.Context) error

	// Exec starts a command. ctx bounds the start only. The caller closes the
	// Process; a command whose Process is closed early goes on in the guest
	// until req.Timeout, and can be attached to by its id.
	Exec(ctx context.Context, req ExecRequest) (Process, error)

	// Attach resumes a command by its id, from the given offsets on. A
	// command's output is kept for a bounded time and size after its end; an
	// unknown id is errdefs.NotFound.
	Attach(ctx context.Context, execID string, from Offsets) (Process, error)

	// ReadFile opens a regular file. The caller closes the stream. ctx bounds
	// the whole transfer.
	ReadFile(ctx context.Context, path string) (FileInfo, io.ReadCloser, error)

	// WriteFile replaces path atomically with what r gives until EOF, and
	// returns the bytes written. An error of r leaves the old file.
	WriteFile(ctx context.Context, path string, mode fs.FileMode, r io.Reader) (int64, error)

	Stat(ctx context.Context, path string) (FileInfo, error)
	List(ctx context.Context, path string) ([]FileInfo, error)
	Mkdir(ctx context.Context, path string, mode fs.FileMode, parents bool) error
	Remove(ctx context.Context, path string, recursive bool) error
	Rename(ctx context.Context, from, to string) error

	// SetClock gives the guest the host's time: its clock has stood still while
	// its vCPUs did.
	SetClock(ctx context.Context) error

	// Shutdown asks the guest to end its processes (TERM, then KILL after
	// grace), sync, unmount and reboot. It returns when the guest has said
	// that its file systems are unmounted, or an error.
	Shutdown(ctx context.Context, grace time.Duration) error

	// Close ends the session; the guest goes on and waits for another. It is
	// idempotent, and waits for the session's goroutines.
	Close() error
}

// ExecRequest is one command. Env adds to the BootConfig's; WorkDir and User
// fall back to it when empty.
type ExecRequest struct {
	ID      string // chosen by the caller, unique per machine: 1..64 of [0-9A-Za-z_-]
	Argv    []string
	Env     []string
	WorkDir string
	User    string
	Stdin   bool          // false: the command reads /dev/null
	Timeout time.Duration // the guest kills the whole tree after it; 0 means none
}

// Offsets are positions in a command's output streams, in bytes from its start.
type Offsets struct {
	Stdout, Stderr int64
	Stdin          int64 // bytes of input that the command's pipe has taken
}

// Process is the host's end of one running command. Stdout and Stderr must
// both be read, by one goroutine each, or the command blocks: that is the flow
// control. After both are at EOF, Wait returns.
type Process interface {
	ID() string
	// Start is where the streams begin: zero for a new command; for an
	// attached one what was asked for, or later when that is no longer kept.
	Start() Offsets
	Stdin() io.WriteCloser // closing it gives the command EOF
	Stdout() io.Reader
	Stderr() io.Reader
	// Signal sends a signal, by number, to the command's whole tree.
	Signal(ctx context.Context, sig int) error
	// Wait blocks until the command has ended and returns how.
	Wait(ctx context.Context) (ExitStatus, error)
	// Close lets go of the command without ending it.
	Close() error
}

// ExitStatus is how a command ended.
type ExitStatus struct {
	Code     int    // exit status; -1 when killed by a signal; 127 not found; 126 not executable
	Signal   string // "SIGKILL", ... when killed by one
	TimedOut bool   // killed because ExecRequest.Timeout passed
}

// FileInfo is what stat and list tell of a file.
type FileInfo struct {
	Path    string // as asked; in a list, the entry's name joined to it
	Size    int64
	Mode    fs.FileMode // permission and type bits
	ModTime time.Time
}
