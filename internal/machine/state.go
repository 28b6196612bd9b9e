package machine

import (
	"slices"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// State is where a machine stands in its life.
type State string

// The closed set of states.
const (
	Pending  State = "pending"  // created, never started
	Starting State = "starting" // an operation brings it up
	Running  State = "running"  // its agent has answered
	Paused   State = "paused"   // its vCPUs stand still
	Stopping State = "stopping" // an operation takes it down
	Stopped  State = "stopped"  // no VMM; its disk is kept
	Failed   State = "failed"   // no VMM; ErrorMessage says why
)

// States lists every state, in the order of a life.
func States() []State {
	return []State{Pending, Starting, Running, Paused, Stopping, Stopped, Failed}
}

// Valid reports whether s is one of the states.
func (s State) Valid() bool { _, ok := transitions[s]; return ok }

// Active reports whether a VMM may exist in this state.
func (s State) Active() bool {
	return s == Starting || s == Running || s == Paused || s == Stopping
}

// transitions is the whole state table: which state may follow which.
// Start leads from any resting state to Starting, stop and delete from any to
// Stopping (a pending or failed machine can be stopped: the contract says so).
var transitions = map[State][]State{
	Pending:  {Starting, Stopping},
	Starting: {Running, Failed, Stopping, Stopped},
	Running:  {Paused, Stopping, Stopped, Failed},
	Paused:   {Running, Stopping, Stopped, Failed},
	Stopping: {Stopped, Failed},
	Stopped:  {Starting, Stopping},
	Failed:   {Starting, Stopping},
}

// Next returns an error that names both states unless to may follow from.
func Next(from, to State) error {
	if slices.Contains(transitions[from], to) {
		return nil
	}
	return conflict(from, to)
}

func conflict(from, to State) error {
	return errdefs.New(errdefs.Conflict, "STATE_CONFLICT", "machine is %s and cannot become %s", from, to)
}
