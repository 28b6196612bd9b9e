package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// States of a step and outcomes of an operation, as they are recorded.
const (
	stepDoing  = "doing"
	stepDone   = "done"
	stepUndone = "undone"
	stepFailed = "failed"

	outcomeDone   = "done"
	outcomeUndone = "undone"
	outcomeFailed = "failed" // and something may be left: the next start clears it
)

// recordTimeout bounds one write of the record, undoTimeout one undo. Both run
// also after the operation's own context has ended.
const (
	recordTimeout = 10 * time.Second
	undoTimeout   = 30 * time.Second
)

// step is one part of an operation. Its undo is idempotent, needs nothing but
// the machine's record, and is also called when do failed or never returned.
type step struct {
	name  string
	do    func(ctx context.Context) error
	undo  func(ctx context.Context) error // nil: there is nothing to undo
	tries bool                            // that do fails is logged, and is no failure
}

// operation is a multi-step change of one machine. Each step is recorded
// before it acts and after it, so that a daemon that dies at any line finds the
// operation unfinished and, as its kind says, undoes or finishes it.
type operation struct {
	store  Store
	log    *slog.Logger
	seen   Observer
	rec    OperationRecord
	steps  []step
	undone func(err error) // records the machine's fate, after the undos; may be nil
	oneWay bool            // it has no undos: even if it cannot be recorded, it goes on
	forget bool            // the last step removes the record itself
}

func (m *Manager) newOperation(id ID, kind string, steps []step) *operation {
	return m.resumed(OperationRecord{
		ID: rand.Text(), MachineID: id, Kind: kind, StartedAt: time.Now().UTC(),
	}, steps)
}

// resumed is an operation that has been recorded before.
func (m *Manager) resumed(rec OperationRecord, steps []step) *operation {
	return &operation{store: m.cfg.Store, log: m.cfg.Log, seen: m.cfg.Observer, rec: rec, steps: steps}
}

// run does the steps in order. When one fails, or ctx ends, everything is
// undone, the latest first, and the error returned is that of the step, with
// those of the undos behind it.
func (op *operation) run(ctx context.Context) error {
	began := time.Now()
	err := op.runSteps(ctx)
	code := ""
	if err != nil {
		code = errdefs.CodeOf(classified(err, op.rec.Kind))
	}
	op.seen.OperationEnded(op.rec.Kind, code, time.Since(began))
	return err
}

func (op *operation) runSteps(ctx context.Context) error {
	for _, s := range op.steps {
		if err := op.runStep(ctx, s); err != nil {
			return errors.Join(err, op.unwind(ctx, err))
		}
	}
	if op.forget {
		return nil
	}
	// All is done. Should the record not say so, recovery will find that.
	if err := op.finish(ctx, outcomeDone, nil); err != nil {
		op.log.Error("end operation", "machine", op.rec.MachineID, "err", err)
	}
	return nil
}

func (op *operation) runStep(ctx context.Context, s step) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	op.rec.Steps = append(op.rec.Steps, StepRecord{Name: s.name, State: stepDoing, StartedAt: time.Now().UTC()})
	// This one write also records that the step before is done.
	if err := op.save(ctx); err != nil {
		if !op.oneWay {
			return err
		}
		op.warn(s.name, err)
	}
	began := time.Now()
	err := s.do(ctx)
	op.seen.StepEnded(op.rec.Kind, s.name, time.Since(began))
	if err != nil {
		if ctx.Err() != nil { // who ended the operation says more than what that broke
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		op.mark(len(op.rec.Steps)-1, stepFailed, err)
		if s.tries {
			op.warn(s.name, err)
			return nil
		}
		return fmt.Errorf("%s: %w", s.name, err)
	}
	op.mark(len(op.rec.Steps)-1, stepDone, nil)
	return nil
}

// unwind undoes every recorded step, the latest first, and ends the operation.
// It returns the errors of the undos alone.
func (op *operation) unwind(ctx context.Context, cause error) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for i, rec := range slices.Backward(op.rec.Steps) {
		undo := op.undoOf(rec.Name)
		if undo == nil || rec.State == stepUndone {
			continue
		}
		if err := bounded(ctx, undoTimeout, undo); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", rec.Name, err))
			op.mark(i, stepFailed, err)
			continue
		}
		op.mark(i, stepUndone, nil)
	}
	if op.undone != nil {
		op.undone(cause)
	}
	outcome := outcomeUndone
	if len(errs) > 0 || op.oneWay {
		outcome = outcomeFailed
	}
	return errors.Join(append(errs, op.finish(ctx, outcome, cause))...)
}

func (op *operation) warn(step string, err error) {
	op.log.Warn("operation goes on", "machine", op.rec.MachineID, "operation", op.rec.Kind, "step", step, "err", err)
}

func (op *operation) undoOf(name string) func(context.Context) error {
	for _, s := range op.steps {
		if s.name == name {
			return s.undo
		}
	}
	return nil
}

func (op *operation) mark(i int, state string, err error) {
	s := &op.rec.Steps[i]
	s.State, s.FinishedAt = state, time.Now().UTC()
	if err != nil {
		s.Error = err.Error()
	}
}

func (op *operation) finish(ctx context.Context, outcome string, cause error) error {
	op.rec.Outcome, op.rec.FinishedAt = outcome, time.Now().UTC()
	if cause != nil {
		op.rec.Error = cause.Error()
	}
	return op.save(ctx)
}

func (op *operation) save(ctx context.Context) error {
	rec := op.rec
	rec.Steps = slices.Clone(rec.Steps)
	return bounded(context.WithoutCancel(ctx), recordTimeout, func(ctx context.Context) error {
		if err := op.store.SaveOperation(ctx, rec); err != nil {
			return fmt.Errorf("record operation %s: %w", rec.Kind, err)
		}
		return nil
	})
}

func bounded(ctx context.Context, d time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return f(ctx)
}
