package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// start is one start of a machine: what its steps have made so far. The undos
// work without it too, from the record alone: recovery begins with an empty one.
type start struct {
	m     *Manager
	e     *entry
	mc    *Machine
	first bool // no start has succeeded yet: pin and disk are this start's

	caps  Capabilities
	lease *ImageLease
	boot  BootFiles
	cfg   VMConfig
	vm    VM
	guest Guest
}

func (m *Manager) newStart(e *entry, mc *Machine) *start {
	return &start{m: m, e: e, mc: mc, first: mc.StartedAt.IsZero(), cfg: m.vmConfig(mc)}
}

// steps lists what a start does, in order.
func (s *start) steps() []step {
	return []step{
		{name: "begin", do: s.begin},
		{name: "image", do: s.findImage, undo: s.unpinImage},
		{name: "disk", do: s.createDisk, undo: s.removeDisk},
		{name: "kernel", do: s.findKernel},
		{name: "prepare", do: s.prepare, undo: s.release},
		{name: "boot", do: s.bootVMM, undo: s.kill},
		{name: "process", do: s.recordProcess},
		{name: "guest", do: s.awaitGuest, undo: s.closeGuest},
		{name: "publish", do: s.publish},
	}
}

// start brings a machine up whose lock is held.
func (m *Manager) start(ctx context.Context, e *entry, mc *Machine) error {
	if e.current() != nil {
		if mc.State == Running {
			return nil
		}
		return Next(mc.State, Starting)
	}
	if err := m.settle(ctx, mc); err != nil {
		return err
	}
	if err := Next(mc.State, Starting); err != nil {
		return err
	}
	if err := m.ledger.raise(mc); err != nil {
		return err
	}
	defer func() {
		if !mc.State.Active() { // it did not come up
			m.ledger.lower(mc.ID)
		}
	}()
	ctx, end := e.beginStart(ctx)
	defer end()
	m.openLog(e)
	e.note("start")
	s := m.newStart(e, mc)
	defer s.releaseLease()
	op := m.newOperation(mc.ID, "start", s.steps())
	op.undone = func(cause error) { s.fail(ctx, cause) }
	if err := op.run(ctx); err != nil {
		e.closeLog(m)
		return classified(err, "machine could not be started")
	}
	e.setLogin(nil)
	m.hub.changed(*mc)
	m.watch(e, e.current())
	return nil
}

// settle clears up after an operation that could not undo itself.
func (m *Manager) settle(ctx context.Context, mc *Machine) error {
	if mc.State != Failed && !mc.State.Active() {
		return nil
	}
	if err := m.release(ctx, mc); err != nil {
		return classified(err, "remains of the machine's last run could not be cleared")
	}
	if mc.State.Active() {
		return m.fail(ctx, mc, errUnfinished)
	}
	return nil
}

// begin asks the driver first: what it cannot run needs no pull. The caller's
// files are looked at again: links and the configuration may have changed since
// the machine was created.
func (s *start) begin(ctx context.Context) error {
	s.mc.ErrorMessage, s.mc.ErrorCode = "", ""
	if err := s.m.enter(ctx, s.mc, Starting); err != nil {
		return err
	}
	if err := s.m.checkPaths(s.mc.Spec); err != nil {
		return err
	}
	var err error
	s.caps, err = s.m.cfg.Driver.Capabilities(ctx)
	return err
}

func (s *start) findImage(ctx context.Context) error {
	if s.mc.Spec.Image == "" {
		return nil
	}
	lease, err := s.m.openImage(ctx, s.mc, s.e.login())
	if err != nil {
		return err
	}
	s.lease = lease
	if s.mc.ImageDigest == lease.Digest {
		return nil
	}
	if s.mc.ImageDigest != "" {
		return errdefs.New(errdefs.Runtime, "IMAGE_CHANGED", "image %s is no longer what the machine was made from", s.mc.ImageRef)
	}
	s.mc.ImageRef, s.mc.ImageDigest, s.mc.ImageConfig = lease.Ref, lease.Digest, lease.Config
	return s.m.save(ctx, s.mc)
}

// openImage leases the image that the machine is pinned to; before its first
// start, the one that its reference names now.
func (m *Manager) openImage(ctx context.Context, mc *Machine, auth *RegistryAuth) (*ImageLease, error) {
	if mc.ImageDigest == "" {
		return m.cfg.Images.Resolve(ctx, ImageRequest{Ref: mc.Spec.Image, Auth: auth})
	}
	lease, err := m.cfg.Images.Open(ctx, mc.ImageDigest)
	if errdefs.Is(err, errdefs.NotFound) {
		return m.cfg.Images.Resolve(ctx, ImageRequest{Ref: atDigest(mc.ImageRef, mc.ImageDigest), Auth: auth})
	}
	return lease, err
}

// atDigest replaces the tag or digest of a normalized reference.
func atDigest(ref, digest string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	return ref + "@" + digest
}

func (s *start) unpinImage(context.Context) error {
	s.releaseLease()
	if s.first {
		s.mc.ImageRef, s.mc.ImageDigest, s.mc.ImageConfig = "", "", ImageConfig{}
	}
	return nil
}

func (s *start) releaseLease() {
	if s.lease != nil {
		s.lease.Release()
	}
}

func (s *start) createDisk(ctx context.Context) error {
	path := s.m.diskPath(s.mc.ID)
	if !s.first {
		if _, err := os.Stat(path); err != nil {
			return errdefs.Wrap(err, errdefs.Runtime, "DISK_MISSING", "the machine's disk is gone")
		}
		return nil
	}
	if err := s.removeDisk(ctx); err != nil { // what a crash may have left
		return err
	}
	if err := os.MkdirAll(s.m.stateDir(s.mc.ID), 0o700); err != nil {
		return err
	}
	return s.m.cfg.Disks.Create(ctx, path, int64(s.mc.Spec.DiskMiB)<<20)
}

// removeDisk leaves the log: it says why there was no start.
func (s *start) removeDisk(context.Context) error {
	if !s.first {
		return nil
	}
	if err := os.Remove(s.m.diskPath(s.mc.ID)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *start) findKernel(ctx context.Context) (err error) {
	s.boot, err = s.m.cfg.Kernels.Boot(ctx, s.mc.Spec.KernelPath)
	return err
}

func (s *start) prepare(ctx context.Context) error {
	s.cfg = s.m.bootConfig(s.mc, s.boot, s.lease, s.caps)
	s.cfg.Console = s.e.console()
	return s.m.cfg.Driver.Prepare(ctx, s.cfg)
}

func (s *start) release(ctx context.Context) error {
	return s.m.cfg.Driver.Release(ctx, s.cfg)
}

func (s *start) bootVMM(ctx context.Context) (err error) {
	s.vm, err = s.m.cfg.Driver.Boot(ctx, s.cfg)
	return err
}

// kill ends the VMM. What an earlier daemon booted is ended by release.
func (s *start) kill(ctx context.Context) error {
	if s.vm == nil {
		return nil
	}
	return errors.Join(s.vm.Kill(ctx), s.vm.Close())
}

func (s *start) recordProcess(ctx context.Context) error {
	ref := s.vm.Process()
	s.mc.Process, s.mc.PortForwards = &ref, s.vm.PortForwards()
	return s.m.save(ctx, s.mc)
}

func (s *start) awaitGuest(ctx context.Context) error {
	s.guest = s.m.cfg.Guests.Open(s.mc.ID, s.m.guestConfig(s.mc), s.vm.DialAgent, s.e.note)
	return awaitReady(ctx, s.guest, s.vm, s.m.cfg.BootTimeout)
}

func (s *start) closeGuest(context.Context) error {
	if s.guest == nil {
		return nil
	}
	return s.guest.Close()
}

// publish makes the machine running, for commands first: who reads "running"
// may run one. After it there is no way back: recovery takes a start that got so
// far as done.
func (s *start) publish(ctx context.Context) error {
	if err := Next(s.mc.State, Running); err != nil {
		return err
	}
	mc := *s.mc
	mc.State, mc.StartedAt = Running, time.Now().UTC()
	s.e.note("machine is running")
	s.e.put(&live{vm: s.vm, guest: s.guest, quit: make(chan struct{})})
	if err := s.m.save(ctx, &mc); err != nil {
		s.e.take()
		return err
	}
	*s.mc = mc
	return nil
}

// fail records the fate of a start that was undone.
func (s *start) fail(ctx context.Context, cause error) {
	s.e.note("machine could not be started: " + errdefs.Public(classified(cause, "machine could not be started")))
	if err := s.m.fail(ctx, s.mc, cause); err != nil {
		s.m.cfg.Log.Error("record failed start", "machine", s.mc.ID, "err", err)
	}
}

// fail makes mc failed because of cause; stopped, when somebody wanted it down.
func (m *Manager) fail(ctx context.Context, mc *Machine, cause error) error {
	if !mc.State.Active() { // the operation never began
		return nil
	}
	mc.Process, mc.PortForwards = nil, nil
	if errors.Is(cause, errStopping) {
		return m.enter(ctx, mc, Stopped)
	}
	cause = classified(cause, "machine could not be started")
	mc.ErrorMessage, mc.ErrorCode = errdefs.Public(cause), errdefs.CodeOf(cause)
	return m.enter(ctx, mc, Failed)
}

// awaitReady waits for the guest, at most timeout, and no longer than the VMM
// lives.
func awaitReady(ctx context.Context, g Guest, vm VM, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errGuestSilent)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-vm.Done():
			end(errVMMEnded)
		case <-ctx.Done():
		}
	}()
	err := g.Ready(ctx)
	cause := context.Cause(ctx)
	end(nil)
	<-watched
	switch {
	case err == nil:
		return nil
	case errors.Is(cause, errVMMEnded):
		return exitError(vm.Exit(), "ended before its guest was ready")
	case errors.Is(cause, errGuestSilent):
		return errdefs.Wrap(err, errdefs.Timeout, "GUEST_TIMEOUT",
			"the guest did not answer within %v%s", timeout, quoted(consoleTail(vm)))
	}
	return fmt.Errorf("await guest: %w", err)
}

var (
	errVMMEnded    = errors.New("the VMM ended")
	errGuestSilent = errors.New("the guest is silent")
)
