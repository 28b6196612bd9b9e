// Package hyperfleet is the Go client of Hyperfleet's REST API: OCI images
// become microVMs, commands run in them, files go in and come out.
//
//	c := &hyperfleet.Client{} // the daemon of this host, by its unix socket
//	m, err := c.CreateMachine(ctx, hyperfleet.CreateMachineRequest{
//		Name: "build", VCPUCount: 1, MemSizeMiB: 256, Image: "alpine:3.20",
//	})
//	m, err = c.StartMachine(ctx, m.ID)
//	res, err := c.Exec(ctx, m.ID, hyperfleet.ExecRequest{Command: []string{"uname", "-a"}})
//
// # What is here
//
// One method per endpoint, the types that travel, the frames of a streamed
// exec, and the errors: what the server refuses is an [*Error], which matches
// [ErrNotFound], [ErrConflict] and the other sentinels through errors.Is.
//
// # Retries
//
// Calls that only read, and those with an [IdempotencyKey], are made again when
// the connection breaks or the server answers 429 or 503: see
// Client.MaxRetries. All others are made once: whether a command has run is
// nothing that a client should guess.
//
// # What is not
//
// The client prints nothing, logs nothing and starts no daemon; of the
// environment it reads only what http.ProxyFromEnvironment does, for hosts
// beyond a unix socket. It imports the standard library only.
//
// # Concurrency
//
// A Client is safe for concurrent use once its fields are set. A context bounds
// the call that it is given to, never the life of a machine.
package hyperfleet
