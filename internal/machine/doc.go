// Package machine is the domain: what a machine is, which states it goes
// through, and the Manager that takes it there. It also declares what it needs
// of the world (Store, Driver, Guests, Images, Disks, Kernels) and imports no
// technology; package daemon joins it with those that do. Package httpapi calls
// the Manager.
//
// # States
//
// The table is the variable transitions, and Next is the only reader of it.
//
//	pending   created, never started      -> starting stopping
//	starting  an operation brings it up   -> running failed stopped stopping
//	running   its agent has answered      -> paused stopping stopped failed
//	paused    its vCPUs stand still       -> running stopping stopped failed
//	stopping  an operation takes it down  -> stopped failed
//	stopped   no VMM, its disk is kept    -> starting stopping
//	failed    no VMM, and a reason        -> starting stopping
//
// Starting, stopping, pausing or resuming a machine that is there already
// returns it as it is. What the table forbids is an errdefs.Conflict that names
// both states.
//
// # Concurrency
//
// There is one lock per machine (entry.sem), held for a whole operation. Calls
// that change a machine queue on it and then act on the state they find: of two
// starts at a time one does the work and both return the running machine. Stop,
// Restart and Delete first cancel a start that is under way, and let none begin
// before their turn. Commands, files and reads take no lock that an operation
// holds. Lock order: entry.sem, then Manager.mu or entry.mu, which are never
// held together nor across a call.
//
// An operation runs in a goroutine of the Manager. A caller's context bounds
// the wait for it and never the operation: that goes on when its caller leaves.
//
// # Operations
//
// Start, stop and delete are operations: named steps, each recorded in the
// store before it acts and after (operation.go). A start has undos: when a step
// fails, everything is undone, the latest first, and the machine is failed with
// the reason. Stop and delete have none: they go on, whatever fails, to the
// step that ends what still runs, and are finished by recovery. Restart is a
// stop and a start under one hold of the lock.
//
// # The life of a start
//
//	Manager.Start        waits for the lock; runLocked starts the goroutine
//	Manager.start        a running machine is done; settle clears a failed one
//	operation.run        records each step around it:
//	  start.begin          state starting; the driver says whether it can run
//	  start.findImage      Images.Resolve, or Images.Open of the pinned digest
//	  start.createDisk     first start: Disks.Create
//	  start.findKernel     Kernels.Boot
//	  start.prepare        Driver.Prepare: run directory, sockets
//	  start.bootVMM        Driver.Boot
//	  start.recordProcess  process and forwards into the record, for adoption
//	  start.awaitGuest     Guests.Open, Guest.Ready: BootTimeout, or the VMM's end
//	  start.publish        state running; commands find the session
//	Manager.watch        waits for the VMM's end
//
// Beside the steps, the machine's log (package journal) is open from before the
// first of them until the VMM has ended: it tells what they come to, and keeps
// no machine from starting.
//
// The first start pins the image's digest: the disk's overlay belongs to that
// base. When a first start fails, pin and disk go too.
//
// # After a crash
//
// Manager.Recover makes records and reality agree before the first call: an
// unfinished start is undone (even if its guest may have come up since: its
// caller was told nothing), one that had published its machine is done, an
// unfinished stop or delete is finished, a recorded VMM is adopted with its
// running commands, and one that is gone leaves a failed machine. A VMM that
// ends while the daemon runs is seen at once (watch.go): stopped if its guest
// powered off, else failed with the last line of the console.
package machine
