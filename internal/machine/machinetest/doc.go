// Package machinetest has in-memory fakes of all that a machine.Manager needs,
// and the conformance suite of machine.Store.
//
// A Host is the world outside the daemon: processes, guests, images, disks and
// the database. It outlives daemons. Host.Daemon returns the interfaces as one
// daemon sees them; its Fault makes one call fail, or the whole daemon die, at
// a chosen call, before or after the effect. So a test can go through every
// call of an operation in turn:
//
//	for n := 1; ; n++ {
//		d := host.Daemon()
//		d.Inject(machinetest.Fault{Call: n, Crash: true})
//		...
//		if !d.Injected() {
//			break // the operation makes no n-th call
//		}
//	}
//
// Host.Leftovers names whatever should not be there when nothing runs.
// Everything here is safe for concurrent use.
package machinetest
