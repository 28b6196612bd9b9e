package machine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Manager creates, runs and deletes machines. All methods are safe for
// concurrent use; calls that change one machine queue on its lock and then act
// on the state they find. See the package comment for the rules.
type Manager struct {
	cfg Config
	hub hub

	ctx    context.Context // the Manager's life; every operation's parent
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // operations and watchers
	ledger *ledger

	mu      sync.Mutex
	closed  bool
	entries map[ID]*entry
	pins    map[ID]string // image of each machine: digest, or before it is pinned the normalized reference
}

// CreateRequest is a new machine. Auth is the caller's registry login for the
// image; it stays in memory until the first start has succeeded and is neither
// stored nor logged.
type CreateRequest struct {
	ID    ID     // "": one is made
	Owner string // id of the caller's API key; "" for local callers
	Spec  Spec
	Auth  *RegistryAuth
}

// NewManager checks cfg and returns a Manager. Call Recover before any other
// method, and Close at the end.
func NewManager(cfg Config) (*Manager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Manager{cfg: cfg, ledger: newLedger(cfg.Limits.Host, cfg.Limits.Owner), entries: make(map[ID]*entry), pins: make(map[ID]string)}
	m.ctx, m.cancel = context.WithCancelCause(context.Background())
	return m, nil
}

// Close ends the Manager's goroutines and sessions and leaves every machine
// running, to be adopted by the next daemon. Starts that are under way are
// undone, stops and deletes are finished. It waits, bounded by ctx; calls that
// come later fail with errdefs.Unavailable. It is idempotent.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.cancel(errClosing)

	ended := make(chan struct{})
	go func() {
		m.wg.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		return fmt.Errorf("close machine manager: operations still run: %w", context.Cause(ctx))
	}
	m.mu.Lock()
	entries := maps.Clone(m.entries)
	m.mu.Unlock()
	var errs []error
	for id, e := range entries {
		if l := e.take(); l != nil {
			if err := errors.Join(l.guest.Close(), l.vm.Close()); err != nil {
				errs = append(errs, fmt.Errorf("let go of machine %s: %w", id, err))
			}
			e.note("the daemon ends and leaves the machine as it is")
		}
		e.closeLog(m)
	}
	return errors.Join(errs...)
}

// Create validates the request and records a pending machine. It starts
// nothing and pulls nothing.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (Machine, error) {
	spec := req.Spec.normalized(m.cfg.Limits)
	if err := spec.Validate(m.cfg.Limits); err != nil {
		return Machine{}, err
	}
	if err := m.checkPaths(spec); err != nil {
		return Machine{}, err
	}
	if err := m.checkKernel(ctx, spec); err != nil {
		return Machine{}, err
	}
	image := ""
	if spec.Image != "" {
		var err error
		if image, err = m.cfg.Images.Normalize(spec.Image); err != nil {
			return Machine{}, err
		}
	}
	now := time.Now().UTC()
	mc := Machine{
		ID: req.ID, HostID: m.cfg.HostID, Owner: req.Owner, Spec: spec, State: Pending,
		CreatedAt: now, UpdatedAt: now,
	}
	if mc.ID == "" {
		mc.ID = NewID()
	}
	e, err := m.ref(mc.ID)
	if err != nil {
		return Machine{}, err
	}
	defer m.unref(e)
	undo, err := m.ledger.create(&mc)
	if err != nil {
		return Machine{}, err
	}
	if spec.Image != "" {
		e.setLogin(req.Auth)
	}
	m.pin(mc.ID, image)
	if err := m.cfg.Store.CreateMachine(ctx, &mc); err != nil {
		m.pin(mc.ID, "")
		undo()
		e.setLogin(nil)
		return Machine{}, fmt.Errorf("create machine: %w", err)
	}
	m.hub.changed(mc)
	return mc, nil
}

// Get returns a machine, or errdefs.NotFound.
func (m *Manager) Get(ctx context.Context, id ID) (Machine, error) {
	return m.cfg.Store.Machine(ctx, id)
}

// List returns the machines that f asks for, newest first, and how many there
// are without its limit and offset.
func (m *Manager) List(ctx context.Context, f Filter) ([]Machine, int, error) {
	return m.cfg.Store.Machines(ctx, f)
}

// Operations returns a machine's recorded operations, the newest first.
func (m *Manager) Operations(ctx context.Context, id ID, limit int) ([]OperationRecord, error) {
	if _, err := m.cfg.Store.Machine(ctx, id); err != nil {
		return nil, err
	}
	return m.cfg.Store.Operations(ctx, id, limit)
}

// Wait returns the machine as soon as it is in state, at once if it is
// already; a state that is passed through counts. It fails with
// errdefs.NotFound when the machine is deleted meanwhile and with
// errdefs.Timeout when ctx's deadline passes.
func (m *Manager) Wait(ctx context.Context, id ID, state State) (Machine, error) {
	if !state.Valid() {
		return Machine{}, invalid("status %q is unknown", state)
	}
	sub := m.hub.subscribe(id, state) // before the look, so that nothing falls between
	defer m.hub.cancel(sub)
	mc, err := m.cfg.Store.Machine(ctx, id)
	if err != nil || mc.State == state {
		return mc, err
	}
	select {
	case mc, ok := <-sub.reached:
		if !ok {
			return Machine{}, NotFoundError(id)
		}
		return mc, nil
	case <-m.ctx.Done():
		return Machine{}, errClosing
	case <-ctx.Done():
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return Machine{}, context.Cause(ctx)
		}
		return Machine{}, errdefs.Wrap(ctx.Err(), errdefs.Timeout, "TIMEOUT_ERROR",
			"Timed out waiting for machine %s to reach status %s", id, state)
	}
}

// InUse returns the images that machines are made from, for the image cache's
// eviction: by manifest digest, or by normalized reference as long as no start
// has resolved that.
func (m *Manager) InUse() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	used := make(map[string]bool, len(m.pins))
	for _, image := range m.pins {
		used[image] = true
	}
	return used
}

// save records mc. The pin of an image takes effect before the record does,
// and ends after it: the cache never sees a machine without its image.
func (m *Manager) save(ctx context.Context, mc *Machine) error {
	if mc.ImageDigest != "" {
		m.pin(mc.ID, mc.ImageDigest)
	}
	mc.UpdatedAt = time.Now().UTC()
	err := bounded(context.WithoutCancel(ctx), recordTimeout, func(ctx context.Context) error {
		return m.cfg.Store.UpdateMachine(ctx, *mc)
	})
	if err != nil {
		return fmt.Errorf("record machine %s: %w", mc.ID, err)
	}
	m.pin(mc.ID, m.imageOf(mc))
	if !mc.State.Active() {
		m.ledger.lower(mc.ID)
	}
	return nil
}

// imageOf is what the machine needs of the image cache, "" for nothing.
func (m *Manager) imageOf(mc *Machine) string {
	if mc.ImageDigest != "" || mc.Spec.Image == "" {
		return mc.ImageDigest
	}
	image, err := m.cfg.Images.Normalize(mc.Spec.Image)
	if err != nil {
		return "" // of a record that an older version has let through: it cannot start
	}
	return image
}

// pin notes the image that the machine needs, "" for none.
func (m *Manager) pin(id ID, image string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if image == "" {
		delete(m.pins, id)
		return
	}
	m.pins[id] = image
}

// enter moves mc to a state, if the state table allows it, and records that.
func (m *Manager) enter(ctx context.Context, mc *Machine, to State) error {
	if err := Next(mc.State, to); err != nil {
		return err
	}
	before := mc.State
	mc.State = to
	if err := m.save(ctx, mc); err != nil {
		mc.State = before
		return err
	}
	m.hub.changed(*mc)
	return nil
}

// checkKernel refuses a machine for which there is no kernel.
func (m *Manager) checkKernel(ctx context.Context, spec Spec) error {
	_, err := m.cfg.Kernels.Boot(ctx, spec.KernelPath)
	if errdefs.Is(err, errdefs.NotFound) {
		return errdefs.Wrap(err, errdefs.Invalid, errdefs.CodeOf(err), "%s", errdefs.Public(err))
	}
	return err
}

// checkPaths refuses files of the host that are not there, or not a caller's
// to name.
func (m *Manager) checkPaths(spec Spec) error {
	if spec.KernelPath != "" {
		if err := m.checkFile(spec.KernelPath, "Kernel"); err != nil {
			return err
		}
	}
	switch {
	case spec.Image != "":
		return nil
	case spec.RootfsPath != "":
		return m.checkFile(spec.RootfsPath, "Rootfs")
	case m.cfg.RootfsPath == "":
		return invalid("image is required: no root filesystem is configured")
	}
	if _, err := os.Stat(m.cfg.RootfsPath); err != nil {
		return errdefs.Wrap(err, errdefs.Invalid, "VALIDATION_ERROR", "Rootfs image not found: %s", m.cfg.RootfsPath)
	}
	return nil
}

// checkFile follows links first, so that none leads out of an allowed folder.
func (m *Manager) checkFile(path, what string) error {
	allowed := m.allowed(path)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		allowed = m.allowed(target)
	}
	if !allowed {
		return errdefs.New(errdefs.Forbidden, "PATH_NOT_ALLOWED", "%s image is in no allowed folder: %s", what, path)
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return errdefs.Wrap(err, errdefs.Invalid, "VALIDATION_ERROR", "%s image not found: %s", what, path)
	}
	return nil
}

func (m *Manager) allowed(path string) bool {
	for _, dir := range m.cfg.AllowedDirs {
		if target, err := filepath.EvalSymlinks(dir); err == nil {
			dir = target
		}
		if rel, err := filepath.Rel(dir, path); err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}
