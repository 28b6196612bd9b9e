package machine

import (
	"context"
	"errors"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Start brings the machine up and returns it once its guest has answered. A
// running machine is returned as it is. When ctx ends the call returns, and the
// start goes on; Stop and Delete cancel it. A start that fails leaves the
// machine failed and nothing else behind.
func (m *Manager) Start(ctx context.Context, id ID) (Machine, error) {
	return m.change(ctx, id, m.start)
}

// Stop shuts the guest down, ends the VMM and keeps the disk. A stopped
// machine is returned as it is; a start that is under way is cancelled.
func (m *Manager) Stop(ctx context.Context, id ID) (Machine, error) {
	return m.changeDown(ctx, id, m.stop)
}

// Restart is Stop, then Start, with no other call in between.
func (m *Manager) Restart(ctx context.Context, id ID) (Machine, error) {
	return m.changeDown(ctx, id, func(ctx context.Context, e *entry, mc *Machine) error {
		if err := m.stop(ctx, e, mc); err != nil {
			return err
		}
		return m.start(ctx, e, mc)
	})
}

// Delete ends the machine, whatever its state, and removes its disk and record.
func (m *Manager) Delete(ctx context.Context, id ID) error {
	_, err := m.changeDown(ctx, id, m.remove)
	return err
}

// Pause stops the machine's vCPUs; a paused machine is returned as it is.
func (m *Manager) Pause(ctx context.Context, id ID) (Machine, error) {
	return m.change(ctx, id, func(ctx context.Context, e *entry, mc *Machine) error {
		return m.setPaused(ctx, e, mc, Paused)
	})
}

// Resume undoes Pause; a running machine is returned as it is.
func (m *Manager) Resume(ctx context.Context, id ID) (Machine, error) {
	return m.change(ctx, id, func(ctx context.Context, e *entry, mc *Machine) error {
		return m.setPaused(ctx, e, mc, Running)
	})
}

// setPaused is one step, so it needs no operation: recovery makes the VMM agree
// with the record.
func (m *Manager) setPaused(ctx context.Context, e *entry, mc *Machine, to State) error {
	l := e.current()
	if mc.State == to && l != nil {
		return nil
	}
	if l == nil || mc.State != Running && mc.State != Paused {
		return conflict(mc.State, to)
	}
	caps, err := m.cfg.Driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if !caps.Pause {
		return errdefs.New(errdefs.Unsupported, "UNSUPPORTED", "the %s driver cannot pause machines here", m.cfg.Driver.Name())
	}
	do, undo := l.vm.Pause, l.vm.Resume
	if to == Running {
		do, undo = undo, do
	}
	if err = bounded(ctx, undoTimeout, do); err == nil {
		m.setClock(ctx, l, mc.ID, to)
		e.setPaused(to == Paused) // before the record: who reads "running" may run commands
		if err = m.enter(ctx, mc, to); err == nil {
			e.note("machine is " + string(to))
		}
	}
	if err != nil { // each of the two may have happened nevertheless
		e.setPaused(mc.State == Paused)
		back := bounded(context.WithoutCancel(ctx), undoTimeout, undo)
		return classified(errors.Join(err, back, m.save(ctx, mc)), "machine could not become "+string(to))
	}
	return nil
}

// clockTimeout bounds the setting of a resumed guest's clock. One that does not
// answer runs nevertheless: the next session sets it.
const clockTimeout = 10 * time.Second

// setClock gives a guest that has just been resumed the time, before anybody
// can run a command in it.
func (m *Manager) setClock(ctx context.Context, l *live, id ID, to State) {
	if to != Running {
		return
	}
	if err := bounded(ctx, clockTimeout, l.guest.SetClock); err != nil {
		m.cfg.Log.Warn("clock of a resumed guest is not set", "machine", id, "err", err)
	}
}

type changeFunc func(ctx context.Context, e *entry, mc *Machine) error

// change runs f under the machine's lock.
func (m *Manager) change(ctx context.Context, id ID, f changeFunc) (Machine, error) {
	e, err := m.ref(id)
	if err != nil {
		return Machine{}, err
	}
	if err := e.lock(ctx); err != nil {
		m.unref(e)
		return Machine{}, err
	}
	return m.runLocked(ctx, e, f)
}

// changeDown is change for what takes the machine down: it cancels a start
// that is under way, and lets none begin before its turn.
func (m *Manager) changeDown(ctx context.Context, id ID, f changeFunc) (Machine, error) {
	e, err := m.ref(id)
	if err != nil {
		return Machine{}, err
	}
	turn := e.wantDown()
	err = e.lock(ctx)
	turn()
	if err != nil {
		m.unref(e)
		return Machine{}, err
	}
	return m.runLocked(ctx, e, f)
}

// runLocked runs f in a goroutine of the Manager: ctx bounds the wait for its
// result, never the change itself, which would otherwise depend on whether its
// caller is still there. It gives up the entry and its lock.
func (m *Manager) runLocked(ctx context.Context, e *entry, f changeFunc) (Machine, error) {
	type result struct {
		mc  Machine
		err error
	}
	ended := make(chan result, 1)
	run := func() {
		var r result
		defer func() {
			e.unlock()
			m.unref(e)
			ended <- r
		}()
		if r.mc, r.err = m.cfg.Store.Machine(context.WithoutCancel(m.ctx), e.id); r.err == nil {
			r.err = f(m.ctx, e, &r.mc)
		}
	}
	if err := m.spawn(run); err != nil {
		e.unlock()
		m.unref(e)
		return Machine{}, err
	}
	select {
	case r := <-ended:
		if r.err != nil {
			return Machine{}, r.err
		}
		return r.mc, nil
	case <-ctx.Done():
		return Machine{}, waitError(ctx)
	}
}

// spawn runs f in a goroutine that Close waits for.
func (m *Manager) spawn(f func()) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosing
	}
	m.wg.Go(f)
	return nil
}
