package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// maxRecover bounds how many machines are recovered at a time: adoption waits
// for sockets, not for the processor.
const maxRecover = 16

// Recover brings records and reality together after a restart. It is called
// once, before any other method, and returns when every machine is settled: an
// unfinished start is undone, an unfinished stop or delete is finished, a VMM
// that runs is adopted, and one that is gone is cleared up after. What cannot
// be recovered is a failed machine and a log line, not an error. When ctx ends
// first, Recover fails, and what it has not come to is left as it is.
func (m *Manager) Recover(ctx context.Context) error {
	machines, _, err := m.cfg.Store.Machines(ctx, Filter{})
	if err != nil {
		return fmt.Errorf("recover machines: %w", err)
	}
	records, err := m.cfg.Store.UnfinishedOperations(ctx)
	if err != nil {
		return fmt.Errorf("recover operations: %w", err)
	}
	unfinished := make(map[ID][]OperationRecord)
	for _, rec := range records {
		unfinished[rec.MachineID] = append(unfinished[rec.MachineID], rec)
	}
	for _, mc := range machines {
		m.ledger.restore(&mc)
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxRecover)
	for _, mc := range machines {
		m.pin(mc.ID, m.imageOf(&mc))
		if !mc.State.Active() && unfinished[mc.ID] == nil {
			continue
		}
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := m.recoverMachine(ctx, mc, unfinished[mc.ID]); err != nil {
				m.cfg.Log.Error("recover machine", "machine", mc.ID, "err", err)
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("recover machines: %w", context.Cause(ctx))
	}
	return nil
}

func (m *Manager) recoverMachine(ctx context.Context, mc Machine, records []OperationRecord) error {
	e, err := m.ref(mc.ID)
	if err != nil {
		return err
	}
	defer m.unref(e)
	if err := e.lock(ctx); err != nil {
		return err
	}
	defer e.unlock()
	for _, rec := range records {
		// One lock held each of them, so at most the last is half done: the
		// others only lack their outcome.
		if err := m.recoverOperation(ctx, e, &mc, rec); err != nil {
			return fmt.Errorf("%s: %w", rec.Kind, err)
		}
		if rec.Kind == "delete" {
			return nil
		}
	}
	return m.readopt(ctx, e, &mc)
}

func (m *Manager) recoverOperation(ctx context.Context, e *entry, mc *Machine, rec OperationRecord) error {
	t := &takedown{m: m, e: e, mc: mc}
	switch rec.Kind {
	case "start":
		s := m.newStart(e, mc)
		op := m.resumed(rec, s.steps())
		if mc.State == Running || mc.State == Paused {
			return op.finish(ctx, outcomeDone, nil) // it had published the machine
		}
		op.undone = func(cause error) { s.fail(ctx, cause) }
		return op.unwind(ctx, errUnfinished)
	case "stop":
		l, err := m.adopt(ctx, e, mc)
		switch {
		case err == nil:
			t.live = l // so that the guest still ends well
			m.agree(ctx, l, mc.ID, Running)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		return t.runStop(ctx, m.resumed(rec, t.stopSteps()))
	case "delete":
		return t.runRemove(ctx, m.resumed(rec, t.removeSteps()), e)
	}
	return m.resumed(rec, nil).finish(ctx, outcomeFailed, errors.New("unknown kind"))
}

// readopt makes the machine as its record says, if its VMM is still there.
func (m *Manager) readopt(ctx context.Context, e *entry, mc *Machine) error {
	if mc.State != Running && mc.State != Paused {
		return m.settleStale(ctx, mc)
	}
	l, err := m.adopt(ctx, e, mc)
	switch {
	case err != nil && ctx.Err() != nil:
		e.closeLog(m)
		return context.Cause(ctx) // nothing is known of the VMM: the next daemon adopts it
	case err != nil:
		return m.lost(ctx, e, mc, err)
	}
	m.agree(ctx, l, mc.ID, mc.State)
	l.paused = mc.State == Paused
	e.put(l)
	m.watch(e, l)
	m.cfg.Log.Info("machine adopted", "machine", mc.ID, "pid", mc.Process.PID)
	return nil
}

func (m *Manager) settleStale(ctx context.Context, mc *Machine) error {
	if !mc.State.Active() {
		return nil
	}
	return m.settle(ctx, mc)
}

// adopt takes a VMM over. Its log goes on, with a word about what is not in it;
// it stays open also on failure, for the reason.
func (m *Manager) adopt(ctx context.Context, e *entry, mc *Machine) (*live, error) {
	if mc.Process == nil {
		return nil, errdefs.New(errdefs.NotFound, "NOT_FOUND", "no VMM is recorded")
	}
	m.openLog(e)
	e.note("a new daemon takes the machine over: what its console said without one is not in this log")
	cfg := m.vmConfig(mc)
	cfg.Console = e.console()
	var vm VM
	err := bounded(ctx, undoTimeout, func(ctx context.Context) (err error) {
		vm, err = m.cfg.Driver.Adopt(ctx, cfg, *mc.Process)
		return err
	})
	if err != nil {
		return nil, err
	}
	guest := m.cfg.Guests.Open(mc.ID, m.guestConfig(mc), vm.DialAgent, e.note)
	return &live{vm: vm, guest: guest, quit: make(chan struct{})}, nil
}

// agree pauses or resumes a VMM whose daemon died between that and the record.
func (m *Manager) agree(ctx context.Context, l *live, id ID, state State) {
	caps, err := m.cfg.Driver.Capabilities(ctx)
	switch {
	case err != nil || !caps.Pause:
	case state == Paused:
		err = bounded(ctx, undoTimeout, l.vm.Pause)
	default:
		err = bounded(ctx, undoTimeout, l.vm.Resume)
	}
	if err != nil {
		m.cfg.Log.Warn("adopted machine may not be as recorded", "machine", id, "state", state, "err", err)
	}
}

// lost clears up after a VMM that is gone, or that cannot be adopted.
func (m *Manager) lost(ctx context.Context, e *entry, mc *Machine, cause error) error {
	defer e.closeLog(m)
	err := errdefs.Wrap(cause, errdefs.Runtime, "VMM_LOST", "the VMM could not be adopted after a restart of the daemon")
	if errdefs.Is(cause, errdefs.NotFound) {
		err = errdefs.Wrap(cause, errdefs.Runtime, "VMM_EXITED", "the VMM ended while the daemon was away")
	}
	m.cfg.Observer.VMMEnded(VMMLost)
	m.cfg.Log.Warn("machine failed", "machine", mc.ID, "err", err)
	e.note("machine failed: " + err.Message)
	return errors.Join(m.release(ctx, mc), m.fail(ctx, mc, err))
}
