// Package cli is the command line: every verb of the hyperfleet binary.
//
// Each command is four pieces, in a file named after it: newXCommand, an
// XOptions struct, its AddFlags, and runX, which never touches cobra and so is
// called by tests directly. All of them speak to a daemon through the public
// client (the root package); the engine itself is reached through the function
// values of Backend alone, so that this package imports none of it.
//
// Exit codes are part of the interface: see exit.go. The package reads its own
// few variables of the environment (HYPERFLEET_HOST, HYPERFLEET_CONTEXT,
// HYPERFLEET_API_KEY, HYPERFLEET_REGISTRY_PASSWORD) through App.Getenv, and the
// user's file of contexts, which is the only thing that it keeps. Commands run one at a time;
// nothing here is safe for concurrent use but the writers it is given.
package cli
