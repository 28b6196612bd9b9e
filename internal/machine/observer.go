package machine

import "time"

// Observer counts what happens to machines. Its methods are called from many
// goroutines and must not block. None of them names a machine: what is counted
// must not grow with the number of machines.
type Observer interface {
	// StepEnded is told of each step of an operation when it is done or has
	// failed.
	StepEnded(operation, step string, took time.Duration)
	// OperationEnded is told of each operation, after its undos. The code is
	// that of its error, "" when all is done. A guest may have chosen it.
	OperationEnded(operation, code string, took time.Duration)
	// VMMEnded is told of each VMM that nobody asked to end.
	VMMEnded(reason string)
}

// Reasons that Observer.VMMEnded is told.
const (
	VMMPoweredOff = "powered_off" // its guest wanted that: the machine is stopped
	VMMFailed     = "failed"      // the machine is failed
	VMMLost       = "lost"        // while there was no daemon, or it cannot be adopted
)

// nobody observes nothing.
type nobody struct{}

func (nobody) StepEnded(string, string, time.Duration)      {}
func (nobody) OperationEnded(string, string, time.Duration) {}
func (nobody) VMMEnded(string)                              {}
