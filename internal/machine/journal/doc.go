// Package journal keeps the bounded log of one machine: what its guest wrote
// to the serial console, and what this side has to tell of the machine and its
// agent session. It outlives the VMM: the reason of a failed start is in it.
//
// # On disk
//
// A journal is two files in the machine's state folder, log and log.1. The
// newer one is written until it is full and then replaces the older one, so at
// least the last half of the limit is kept. A line of a file is an entry, in
// the form that container runtimes use for theirs:
//
//	2026-02-03T04:05:06.789Z serial F Linux version 6.1.0
//
// with the host's time, the source, and F, or P for a piece of a line whose
// rest follows. The content is the guest's own bytes but for the newline, which
// no entry can hold: a guest writes what it likes, and forges no other source.
//
// # Sources
//
//	serial   the serial console
//	init     lines of the serial console that have the form of hyperfleet-init's
//	session  events that this side saw: states, the agent session
//
// A guest's root can write lines to the console that look like init's. What
// session says cannot be forged.
//
// # Concurrency
//
// A Journal is safe for concurrent use. A Reader belongs to one goroutine; it
// reads files of its own and holds no lock while it does, so that a slow one
// stops nobody: it finds at most one gap, marked as such, where the journal
// went on without it.
package journal
