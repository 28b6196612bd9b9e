package machine

import (
	"context"
	"os"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Manager creates, runs and deletes machines. All methods are safe for
// concurrent use; calls that change one machine queue on its lock and then act
// on the state they find. See the package comment for the rules.
type Manager struct {
	cfg Config
}

// CreateRequest is a new machine. Auth is the caller's registry login for the
// image; it stays in memory until the first start has succeeded and is neither
// stored nor logged.
type CreateRequest struct {
	Spec Spec
	Auth *RegistryAuth
}

// NewManager checks cfg and returns a Manager. Call Recover before any other
// method, and Close at the end.
func NewManager(cfg Config) (*Manager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg}, nil
}

var errSoon = errdefs.New(errdefs.Unsupported, "UNSUPPORTED", "not wired yet")

// Recover brings records and reality together after a restart: it finishes or
// undoes what an earlier daemon left half done, adopts the VMMs that run, and
// cleans up after those that do not. It is called once, before any other
// method. A machine that cannot be recovered is failed, and no error.
func (m *Manager) Recover(ctx context.Context) error { return errSoon }

// Close ends the Manager's goroutines and sessions and leaves every machine
// running, to be adopted by the next daemon. Starts that are under way are
// undone. It waits, bounded by ctx.
func (m *Manager) Close(ctx context.Context) error { return errSoon }

// Create validates the request and records a pending machine. It starts
// nothing and pulls nothing.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (Machine, error) {
	return Machine{}, errSoon
}

// Get returns a machine, or errdefs.NotFound.
func (m *Manager) Get(ctx context.Context, id ID) (Machine, error) { return Machine{}, errSoon }

// List returns the machines that f asks for, newest first, and how many there
// are without its limit and offset.
func (m *Manager) List(ctx context.Context, f Filter) ([]Machine, int, error) {
	return nil, 0, errSoon
}

// Operations returns a machine's recorded operations, the newest first.
func (m *Manager) Operations(ctx context.Context, id ID, limit int) ([]OperationRecord, error) {
	return nil, errSoon
}

// Wait returns the machine as soon as it is in state, at once if it is
// already; a state that is passed through counts. It fails with
// errdefs.NotFound when the machine is deleted meanwhile and with
// errdefs.Timeout when ctx's deadline passes.
func (m *Manager) Wait(ctx context.Context, id ID, state State) (Machine, error) {
	return Machine{}, errSoon
}

// Start brings the machine up and returns it once its guest has answered. A
// running machine is returned as it is. When ctx ends the call returns, and the
// start goes on; Stop and Delete cancel it. A start that fails leaves the
// machine failed and nothing else behind.
func (m *Manager) Start(ctx context.Context, id ID) (Machine, error) { return Machine{}, errSoon }

// Stop shuts the guest down, ends the VMM and keeps the disk. A stopped
// machine is returned as it is; a start that is under way is cancelled.
func (m *Manager) Stop(ctx context.Context, id ID) (Machine, error) { return Machine{}, errSoon }

// Restart is Stop, then Start, with no other call in between.
func (m *Manager) Restart(ctx context.Context, id ID) (Machine, error) { return Machine{}, errSoon }

// Delete ends the machine, whatever its state, and removes its disk and record.
func (m *Manager) Delete(ctx context.Context, id ID) error { return errSoon }

// Pause stops the machine's vCPUs; a paused machine is returned as it is.
func (m *Manager) Pause(ctx context.Context, id ID) (Machine, error) { return Machine{}, errSoon }

// Resume undoes Pause; a running machine is returned as it is.
func (m *Manager) Resume(ctx context.Context, id ID) (Machine, error) { return Machine{}, errSoon }

// Exec starts a command in the guest; ctx bounds the start only. An empty
// req.ID gets one. It fails with errdefs.Invalid when the machine is not
// running. The caller closes the Process.
func (m *Manager) Exec(ctx context.Context, id ID, req ExecRequest) (Process, error) {
	return nil, errSoon
}

// AttachExec resumes a command by its id; see Guest.Attach.
func (m *Manager) AttachExec(ctx context.Context, id ID, execID string, from Offsets) (Process, error) {
	return nil, errSoon
}

// Guest returns the machine's agent session for file calls, or errdefs.Invalid
// when the machine is not running. The caller must not close it.
func (m *Manager) Guest(ctx context.Context, id ID) (Guest, error) { return nil, errSoon }

// Console opens the record of a running machine's serial console. The caller
// closes it.
func (m *Manager) Console(ctx context.Context, id ID) (*os.File, error) { return nil, errSoon }

// InUse returns the manifest digests of the images that machines are made
// from, for the image cache's eviction.
func (m *Manager) InUse() map[string]bool { return nil }
