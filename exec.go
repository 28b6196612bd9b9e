package hyperfleet

import (
	"context"
	"net/http"
)

// ExecRequest is one command, given as argv: no shell is involved. Env,
// WorkDir and User fall back to what the machine's image says.
type ExecRequest struct {
	Command []string          `json:"command,omitempty" maxItems:"65536" doc:"Program and arguments; PATH is searched, no shell is involved"`
	Env     map[string]string `json:"env,omitempty" doc:"Added to the machine's environment"`
	WorkDir string            `json:"work_dir,omitempty" maxLength:"4095" doc:"Default: the image's"`
	User    string            `json:"user,omitempty" maxLength:"255" doc:"Name, uid, or uid:gid in the guest; default: the image's"`

	// Timeout is in seconds. Zero means 30 for Exec and none for ExecStream.
	// The server shortens what is above its own limit.
	Timeout float64 `json:"timeout,omitempty" minimum:"1" doc:"Seconds until the whole process tree is killed; default 30, none for a streamed exec; shortened to the server's limit"`

	// Stdin is what the command reads. For ExecStream see ExecIO.
	Stdin string `json:"stdin,omitempty" doc:"What the command reads, in the given encoding; without it, /dev/null"`

	// Encoding of Stdin here and of Stdout and Stderr in the result: "" for
	// UTF-8, with invalid bytes replaced, or "base64" for exact bytes.
	Encoding string `json:"encoding,omitempty" enum:"utf-8,base64" doc:"Of stdin, stdout and stderr; utf-8 replaces invalid bytes, base64 is exact"`

	// AttachStdin makes a streamed command's input a pipe that the caller
	// feeds. ExecStream sets it.
	AttachStdin bool `json:"attach_stdin,omitempty" doc:"Streamed exec only: input comes in frames"`

	// ExecID names the command, for attaching to it. Empty: the server (for
	// Exec) or the client (for ExecStream) chooses one.
	ExecID string `json:"exec_id,omitempty" pattern:"^[0-9A-Za-z_-]{1,64}$" doc:"Unique per machine; default: chosen by the server"`
}

// ExecResult is how a command ended.
type ExecResult struct {
	ExitCode int    `json:"exit_code" doc:"127: not found; 126: not executable; -1: killed by a signal"`
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	Signal   string `json:"signal,omitempty" doc:"Name of the signal that killed it" example:"SIGKILL"`
	TimedOut bool   `json:"timed_out,omitempty" doc:"Killed because its timeout passed"`
	ExecID   string `json:"exec_id"`
	Encoding string `json:"encoding,omitempty" doc:"base64 when the output is encoded so"`
}

// ExecStatus is what the server knows of a command.
type ExecStatus struct {
	ExecID   string `json:"exec_id"`
	Running  bool   `json:"running"`
	ExitCode *int   `json:"exit_code" doc:"Null while it runs"`
	Signal   string `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
}

// Exec runs a command and returns all of its output. A command that ends with
// a status other than 0 is no error. One that runs into its timeout is
// ErrTimeout; when ctx ends, the server kills the command with its children.
func (c *Client) Exec(ctx context.Context, machineID string, req ExecRequest, options ...CallOption) (ExecResult, error) {
	var res ExecResult
	err := c.do(ctx, call{method: http.MethodPost, path: machinePath(machineID, "exec"), in: req}.with(options), &res)
	return res, err
}

// ExecStatus asks whether a command runs, and how it ended if not.
func (c *Client) ExecStatus(ctx context.Context, machineID, execID string) (ExecStatus, error) {
	var st ExecStatus
	err := c.do(ctx, call{method: http.MethodGet, path: machinePath(machineID, "exec", execID)}, &st)
	return st, err
}
