package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// takedown is one stop or delete of a machine. Its steps have no undo and are
// idempotent: once begun it is finished, by the next daemon if need be. What
// only helps the others may fail: release ends whatever still runs.
type takedown struct {
	m    *Manager
	e    *entry
	mc   *Machine
	live *live // nil when no VMM is known; release ends an unknown one
}

// exitWait is what a guest gets beyond the grace of its processes: to kill what
// is left of them (2 s at most, see initd's killWait), write what is left of its
// caches to the disk, unmount, say so and reboot, which takes milliseconds.
const exitWait = 7 * time.Second

// stop takes a machine down whose lock is held, and keeps its disk.
func (m *Manager) stop(ctx context.Context, e *entry, mc *Machine) error {
	if mc.State == Stopped {
		return nil
	}
	t := &takedown{m: m, e: e, mc: mc, live: e.take()}
	return t.runStop(ctx, m.newOperation(mc.ID, "stop", t.stopSteps()))
}

func (t *takedown) runStop(ctx context.Context, op *operation) error {
	if err := t.run(ctx, op, "machine could not be stopped"); err != nil {
		return err
	}
	t.m.hub.changed(*t.mc)
	return nil
}

// run ends in a failed machine when a step fails: its next start, stop or
// delete tries to clear what is left.
func (t *takedown) run(ctx context.Context, op *operation, message string) error {
	ctx = context.WithoutCancel(ctx)
	defer t.e.closeLog(t.m)
	op.oneWay = true
	op.undone = func(cause error) {
		if err := t.m.fail(ctx, t.mc, classified(cause, message)); err != nil {
			t.m.cfg.Log.Error("record failed operation", "machine", t.mc.ID, "operation", op.rec.Kind, "err", err)
		}
	}
	if err := op.run(ctx); err != nil {
		return classified(err, message)
	}
	return nil
}

func (t *takedown) stopSteps() []step {
	return []step{
		{name: "begin", do: t.begin, tries: true},
		{name: "shutdown", do: t.shutdown, tries: true},
		{name: "kill", do: t.kill, tries: true},
		{name: "release", do: t.release},
		{name: "stopped", do: t.stopped},
	}
}

// remove takes a machine down whose lock is held, and removes all of it.
// Nothing of it is kept, so its guest is not asked to end well.
func (m *Manager) remove(ctx context.Context, e *entry, mc *Machine) error {
	t := &takedown{m: m, e: e, mc: mc, live: e.take()}
	return t.runRemove(ctx, m.newOperation(mc.ID, "delete", t.removeSteps()), e)
}

func (t *takedown) runRemove(ctx context.Context, op *operation, e *entry) error {
	op.forget = true
	if err := t.run(ctx, op, "machine could not be deleted"); err != nil {
		return err
	}
	e.setLogin(nil)
	t.m.pin(e.id, "")
	t.m.ledger.remove(e.id)
	t.m.hub.deleted(e.id)
	return nil
}

func (t *takedown) removeSteps() []step {
	return []step{
		{name: "begin", do: t.begin, tries: true},
		{name: "kill", do: t.kill, tries: true},
		{name: "release", do: t.release},
		{name: "files", do: t.removeFiles},
		{name: "record", do: t.removeRecord},
	}
}

func (t *takedown) begin(ctx context.Context) error {
	t.e.note("machine is being taken down")
	if t.mc.State == Stopping {
		return nil
	}
	return t.m.enter(ctx, t.mc, Stopping)
}

// shutdown asks the guest, and waits until its VMM has ended.
func (t *takedown) shutdown(ctx context.Context) error {
	if t.live == nil {
		return nil
	}
	grace := t.m.cfg.StopGrace
	return bounded(ctx, grace+exitWait, func(ctx context.Context) error {
		if t.live.paused {
			if err := t.live.vm.Resume(ctx); err != nil {
				return fmt.Errorf("resume: %w", err)
			}
		}
		return t.askGuest(ctx, grace)
	})
}

func (t *takedown) askGuest(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() { // a guest whose VMM has ended answers nothing any more
		defer close(watched)
		select {
		case <-t.live.vm.Done():
			cancel(errVMMEnded)
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel(nil)
		<-watched
	}()
	if err := t.live.guest.Shutdown(ctx, grace); err != nil && !errors.Is(context.Cause(ctx), errVMMEnded) {
		return err
	}
	<-ctx.Done()
	if cause := context.Cause(ctx); !errors.Is(cause, errVMMEnded) {
		return fmt.Errorf("await the VMM's end: %w", cause)
	}
	return nil
}

func (t *takedown) kill(ctx context.Context) error {
	if t.live == nil {
		return nil
	}
	return bounded(ctx, undoTimeout, t.live.vm.Kill)
}

func (t *takedown) release(ctx context.Context) error {
	var err error
	if t.live != nil {
		err = errors.Join(t.live.guest.Close(), t.live.vm.Close())
	}
	return errors.Join(err, t.m.release(ctx, t.mc))
}

// release clears whatever the driver has of a machine, known to us or not.
func (m *Manager) release(ctx context.Context, mc *Machine) error {
	return bounded(ctx, undoTimeout, func(ctx context.Context) error {
		return m.cfg.Driver.Release(ctx, m.vmConfig(mc))
	})
}

func (t *takedown) stopped(ctx context.Context) error {
	t.mc.Process, t.mc.PortForwards = nil, nil
	t.mc.ErrorMessage, t.mc.ErrorCode = "", ""
	if err := Next(t.mc.State, Stopped); err != nil {
		return err
	}
	t.mc.State = Stopped
	t.e.note("machine is stopped")
	return t.m.save(ctx, t.mc)
}

func (t *takedown) removeFiles(context.Context) error {
	t.e.closeLog(t.m)
	return os.RemoveAll(t.m.stateDir(t.mc.ID))
}

func (t *takedown) removeRecord(ctx context.Context) error {
	return bounded(ctx, recordTimeout, func(ctx context.Context) error {
		return t.m.cfg.Store.DeleteMachine(ctx, t.mc.ID)
	})
}
