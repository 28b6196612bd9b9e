// Package httpapi serves the REST API: machines, commands, files and images.
//
// Handlers, validation and the OpenAPI document come from one definition of
// each operation (huma over the standard library's mux). The types that travel
// are those of the root package, the rules are those of package machine; here
// is only what turns one into the other, and the only table from error kind to
// HTTP status.
//
// # What is here
//
//   - server.go: what the server needs, and how an operation is registered
//   - errors.go: kind to status, name and code; the one error shape
//   - responses.go, codes.go, examples.go: what the document says of answers
//   - nested.go: the other form of errors and lists, for those who ask for it
//   - middleware.go: correlation id, log, recovery, browser guards, deadlines
//   - machines.go, logs.go, exec.go, execstream.go, files.go, images.go,
//     system.go: one file for each resource
//   - session.go, execs.go: a streamed command, and who holds which
//
// # What is not
//
// No rule about machines, no adapter, no listener: package daemon wires those.
// Keys and scopes are package auth's; which scope an operation needs is told at
// its registration, by its Security, and enforced by authorize before its input
// is read.
//
// # Concurrency
//
// Everything is safe for concurrent use. A streamed exec outlives its handler,
// since it takes the connection over: Server.Close ends those and waits.
package httpapi
