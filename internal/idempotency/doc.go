// Package idempotency makes a request that is sent again do its work once. A
// caller names a request by a key of its choice; what came of the first is kept
// for a day and is the answer to every later one of the same key.
//
// # Life of a key
//
//	(nothing)  Keeper.Begin records it: started   -> the caller does the work
//	started    Attempt.Finish records the result  -> finished, replayed
//	           Attempt.Forget drops the record    -> (nothing)
//	           the daemon dies, or Attempt.Leave  -> started, and nobody works
//	finished   a day passes, or it is displaced   -> (nothing)
//
// Of two requests at a time the second waits for the first, as long as its own
// context lets it. A key that comes with another request is refused.
//
// A started record that nobody works on says that the first was cut off, and
// not how far it had come. A request that may be repeated is then done again,
// with the reference that its record holds (the id of the machine to be made);
// any other is refused, with a code that says that its outcome is unknown.
//
// # What is kept
//
// Of a request only a hash, since it may hold secrets. Of a result its status,
// a few headers and its body, which is the caller's data; package store keeps it
// in a file that is ours alone. Bounds limit both for each caller and for all;
// beyond them the oldest results go first, those of the caller who keeps most.
//
// What is not here: HTTP, and which operations take a key (package httpapi).
package idempotency
