// Package daemon is the composition root: it builds every part from the
// configuration, owns them, and takes them down in order. It is the only
// package that knows two adapters.
//
// New takes the host's locks and builds the parts, Listen opens the sockets,
// Serve answers until its context ends and then closes everything; machines
// go on running for the next daemon. Serve, Embed and Setup of this package
// are what the command line calls.
//
// What is not here: any rule about machines (package machine) or about the
// API (package httpapi). A Daemon is used by one goroutine.
package daemon
