package machine

import (
	"context"
	"io"
	"net"
	"os"
	"time"
)

// Driver runs VMMs: one for QEMU, one for Firecracker. A Driver is safe for
// concurrent use; calls for one machine are serialized by the Manager.
//
// The order for one machine is Prepare, Boot, then the VM's methods, then
// Release. After a restart of the daemon it is Adopt or Release. Contexts bound
// the call only, never the machine's life: a VMM outlives the daemon.
type Driver interface {
	// Name is "qemu" or "firecracker".
	Name() string

	// Capabilities says what the driver can do on this host. An error says
	// why it can run nothing here (QEMU is not installed, no KVM).
	Capabilities(ctx context.Context) (Capabilities, error)

	// Prepare makes what Boot needs and checks cfg: the machine's run
	// directory, sockets, ownership of files. It leaves nothing when it fails.
	Prepare(ctx context.Context, cfg VMConfig) error

	// Boot starts the VMM and returns once it runs the vCPUs; the guest's
	// agent may not have answered yet. It leaves no process when it fails; the
	// error then carries the last useful line of the console or of the VMM.
	Boot(ctx context.Context, cfg VMConfig) (VM, error)

	// Adopt takes over a VMM that an earlier daemon started. It fails with
	// errdefs.NotFound when ref no longer names that process.
	Adopt(ctx context.Context, cfg VMConfig, ref ProcessRef) (VM, error)

	// Release undoes Prepare and whatever Boot left: it ends a process that
	// still belongs to the machine and removes its run directory. It is
	// idempotent, and needs no more of cfg than ID, RunDir and UID.
	Release(ctx context.Context, cfg VMConfig) error
}

// Capabilities is what a driver can do here.
type Capabilities struct {
	Accel        string // "kvm" or "tcg"
	AccelReason  string // why it is not kvm; "" when it is
	Pause        bool
	PortForwards bool // exposed ports are reached through loopback forwards
	Version      string
}

// VMConfig is all that a driver needs to know of one boot. It is a plain value
// but for Console.
type VMConfig struct {
	ID         ID
	RunDir     string // absolute; the driver alone writes in it and removes it
	UID, GID   int    // whom the VMM runs as; 0 means the daemon's own (not root: refused)
	VCPUs      int
	MemMiB     int
	KernelPath string
	InitrdPath string // "" boots the first drive directly
	// SmallInitrdPath, when it is not "", may be taken instead of InitrdPath for
	// a guest with little memory: see BootFiles.
	SmallInitrdPath string
	KernelArgs      string // appended to the driver's own
	Drives          []Drive
	Network         *NetworkConfig // nil means no interface

	// Console, unless nil, gets all that the guest writes to its serial console
	// from Boot or Adopt on, in order and by one goroutine, which has ended when
	// VM.Close returns. It takes everything and blocks nobody.
	Console io.Writer
}

// Drive is a raw disk image. The guest sees drives in order: /dev/vda, /dev/vdb.
type Drive struct {
	ID       string // [0-9A-Za-z_]+
	Path     string
	ReadOnly bool
}

// NetworkConfig is the interface of one boot. User-mode networking needs no
// more than the forwards; slots add to it.
type NetworkConfig struct {
	MAC      net.HardwareAddr
	Forwards []PortForward // host side is 127.0.0.1; HostPort 0 lets the driver choose a free one
}

// VM is a VMM that runs. All methods are safe for concurrent use.
type VM interface {
	// Process identifies the VMM's process, to be stored for Adopt.
	Process() ProcessRef

	// PortForwards are the forwards of cfg.Network with the host ports that
	// lead to them now. The caller owns the slice.
	PortForwards() []PortForward

	// DialAgent returns a new connection to the guest's agent channel, for
	// guest.Session: under QEMU a connection to the serial port's socket, under
	// Firecracker the next connection that the guest made. It blocks until
	// there is one. The caller closes it.
	DialAgent(ctx context.Context) (net.Conn, error)

	// Done is closed when the VMM has exited, however it came to that.
	Done() <-chan struct{}

	// Exit says how the VMM ended; it is valid once Done is closed.
	Exit() Exit

	Pause(ctx context.Context) error
	Resume(ctx context.Context) error

	// Shutdown asks the guest to power off by the VMM's own means (a power
	// button), for a guest whose agent is gone. It does not wait, and answers
	// errdefs.Unsupported where there is no such means.
	Shutdown(ctx context.Context) error

	// Kill ends the VMM at once and waits until it is gone. It is idempotent.
	Kill(ctx context.Context) error

	// Console opens the bounded record of the serial console, oldest byte
	// first. The caller closes it.
	Console() (*os.File, error)

	// Close lets go of the VM without ending it: its goroutines have ended and
	// its handles are closed on return. It is idempotent.
	Close() error
}

// Exit says how a VMM ended.
type Exit struct {
	Known   bool // false when an adopted VMM ended: not our child, no status
	Code    int  // exit status, -1 when killed by a signal
	Signal  string
	Console string // last useful line of the console or of the VMM's own output
	At      time.Time
}
