package guestproto

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// Method names what a stream asks for. docs/guest-protocol.md tells for each
// one which messages and channels it uses.
type Method string

// The methods.
const (
	MethodPing     Method = "ping"     // no request, empty result
	MethodBoot     Method = "boot"     // Boot -> Ready
	MethodClock    Method = "clock"    // Clock -> empty
	MethodShutdown Method = "shutdown" // Shutdown -> empty, when unmounted

	MethodExecStart   Method = "exec.start"   // ExecStart -> message ExecStarted, result ExecExit
	MethodExecAttach  Method = "exec.attach"  // ExecAttach -> message ExecStarted, result ExecExit
	MethodExecSignal  Method = "exec.signal"  // ExecSignal -> empty
	MethodExecRelease Method = "exec.release" // ExecRelease -> empty

	MethodFileRead   Method = "file.read"   // FilePath -> message FileInfo, Download, empty result
	MethodFileWrite  Method = "file.write"  // FileWrite, Upload until EOF -> FileWritten
	MethodFileStat   Method = "file.stat"   // FilePath -> FileInfo
	MethodFileList   Method = "file.list"   // FilePath -> Download of one FileInfo per line, empty result
	MethodFileMkdir  Method = "file.mkdir"  // FileMkdir -> empty
	MethodFileRemove Method = "file.remove" // FileRemove -> empty
	MethodFileRename Method = "file.rename" // FileRename -> empty
)

// Text is a string of bytes that need not be UTF-8: an argument, a path. On the
// wire it is a JSON string, or {"base64": "..."} when it is not valid UTF-8.
type Text string

type rawText struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSON encodes t exactly.
func (t Text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(t)) {
		return json.Marshal(string(t))
	}
	return json.Marshal(rawText{[]byte(t)})
}

// UnmarshalJSON accepts both forms.
func (t *Text) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		var raw rawText
		if err := json.Unmarshal(b, &raw); err != nil {
			return err
		}
		*t = Text(raw.Base64)
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*t = Text(s)
	return nil
}

// Texts converts a slice of strings.
func Texts(s []string) []Text { return convert[Text](s) }

// Strings converts a slice of texts.
func Strings(t []Text) []string { return convert[string](t) }

func convert[To, From ~string](from []From) []To {
	if from == nil {
		return nil
	}
	to := make([]To, len(from))
	for i, v := range from {
		to[i] = To(v)
	}
	return to
}

// Empty is the request or result of a method that has none.
type Empty struct{}

// Boot is the request of MethodBoot, the first of every session. The first one
// of a boot makes the guest set itself up; it is ignored later, and answered
// with how the first one ended.
type Boot struct {
	Hostname string       `json:"hostname"`
	Overlay  bool         `json:"overlay"`           // join the read-only base with the machine's disk
	Volumes  []Text       `json:"volumes,omitempty"` // absolute and clean
	Network  *BootNetwork `json:"network,omitempty"`
	Env      []Text       `json:"env,omitempty"` // default environment of every exec, K=V
	WorkDir  Text         `json:"work_dir,omitempty"`
	User     Text         `json:"user,omitempty"` // name, uid, or uid:gid
}

// BootNetwork is how the guest sets up its interface.
type BootNetwork struct {
	Address string   `json:"address"` // CIDR
	Gateway string   `json:"gateway"`
	DNS     []string `json:"dns,omitempty"`
}

// Ready is the result of MethodBoot: the guest is set up and takes requests.
type Ready struct {
	InitVersion string `json:"init_version,omitempty"`
	Kernel      string `json:"kernel,omitempty"` // uname -r
}

// Clock is the request of MethodClock.
type Clock struct {
	UnixNano int64 `json:"unix_nano"` // wall clock of the host
}

// Shutdown is the request of MethodShutdown.
type Shutdown struct {
	GraceMillis int64 `json:"grace_ms"` // from SIGTERM to SIGKILL
}

// ExecStart is the request of MethodExecStart. Env adds to Boot.Env; WorkDir
// and User fall back to Boot's when empty.
type ExecStart struct {
	ID            string `json:"id"` // 1..64 of [0-9A-Za-z_-], see Validate
	Argv          []Text `json:"argv"`
	Env           []Text `json:"env,omitempty"`
	WorkDir       Text   `json:"work_dir,omitempty"`
	User          Text   `json:"user,omitempty"`
	Stdin         bool   `json:"stdin,omitempty"`      // false: the command reads /dev/null
	TimeoutMillis int64  `json:"timeout_ms,omitempty"` // 0 means none
}

// ExecAttach is the request of MethodExecAttach: go on with a command from the
// given offsets of its output on.
type ExecAttach struct {
	ID     string `json:"id"`
	Stdout int64  `json:"stdout"`
	Stderr int64  `json:"stderr"`
}

// ExecStarted is the first message of MethodExecStart and MethodExecAttach:
// where the channels of this stream begin. Stdout and Stderr are the offsets of
// the first byte that follows on each channel: what was asked for, or later
// when that is no longer kept. Stdin is the offset of the first byte that the
// guest wants: how much it has taken so far.
type ExecStarted struct {
	Stdin  int64 `json:"stdin"`
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
}

// ExecExit is the result of MethodExecStart and MethodExecAttach.
type ExecExit struct {
	Code     int    `json:"code"`             // -1 when killed by a signal; 127 not found; 126 not executable
	Signal   string `json:"signal,omitempty"` // "SIGKILL", ...
	TimedOut bool   `json:"timed_out,omitempty"`
	Stdout   int64  `json:"stdout"` // total bytes of output
	Stderr   int64  `json:"stderr"`
}

// ExecSignal is the request of MethodExecSignal.
type ExecSignal struct {
	ID     string `json:"id"`
	Signal int    `json:"signal"` // Linux number, 1..64
}

// ExecRelease is the request of MethodExecRelease: ended commands are
// forgotten, running ones are as soon as they end. Unknown ids are ignored.
type ExecRelease struct {
	IDs []string `json:"ids"`
}

// FilePath is the request of MethodFileRead, MethodFileStat and MethodFileList.
type FilePath struct {
	Path Text `json:"path"` // absolute
}

// FileWrite is the request of MethodFileWrite.
type FileWrite struct {
	Path Text   `json:"path"`
	Mode uint32 `json:"mode"` // permission bits and setuid, setgid, sticky, as fs.FileMode
}

// FileWritten is the result of MethodFileWrite.
type FileWritten struct {
	Size int64 `json:"size"` // bytes
}

// FileMkdir is the request of MethodFileMkdir.
type FileMkdir struct {
	Path    Text   `json:"path"`
	Mode    uint32 `json:"mode"` // as fs.FileMode
	Parents bool   `json:"parents,omitempty"`
}

// FileRemove is the request of MethodFileRemove.
type FileRemove struct {
	Path      Text `json:"path"`
	Recursive bool `json:"recursive,omitempty"`
}

// FileRename is the request of MethodFileRename.
type FileRename struct {
	From Text `json:"from"`
	To   Text `json:"to"`
}

// FileInfo describes a file. In a list Name is the entry's name without its
// folder, otherwise it is the last element of the path.
type FileInfo struct {
	Name          Text   `json:"name"`
	Size          int64  `json:"size"`
	Mode          uint32 `json:"mode"` // bits of fs.FileMode
	ModTimeUnixNs int64  `json:"mtime_ns"`
}

// ErrInvalid is wrapped by the errors of Validate.
var ErrInvalid = errors.New("invalid message")

// Limits of single fields.
const (
	MaxIDLen   = 64
	MaxPathLen = 4095 // PATH_MAX of Linux without its final NUL
	MaxArgs    = 65536
	MaxSignal  = 64
)

// ValidID reports whether id can name a command: 1..64 of [0-9A-Za-z_-].
func ValidID(id string) bool {
	if id == "" || len(id) > MaxIDLen {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
