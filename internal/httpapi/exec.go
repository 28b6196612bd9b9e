package httpapi

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const (
	// execMaxBody bounds the body of an exec: argv, environment and input.
	execMaxBody = 16 << 20
	// execSlack is what the guest gets beyond a command's timeout to say that
	// it has killed it.
	execSlack = 15 * time.Second
	// killTimeout bounds the telling of the guest to kill a command.
	killTimeout = 5 * time.Second
	sigKill     = 9
)

// codesOfLost are what the guest's session says when nobody knows how far a
// call has come.
var codesOfLost = []string{"GUEST_CONNECTION_LOST", "GUEST_SESSION_CLOSED", "CANCELED"}

func (s *Server) registerExec() {
	tags := []string{"exec"}
	upgraded := &huma.Response{
		Description: "The connection carries frames from here on (docs of the Go client, ExecProtocol)",
		Headers:     map[string]*huma.Param{"Upgrade": {Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{hyperfleet.ExecProtocol}}}},
	}
	register(s, s.idempotent(huma.Operation{
		OperationID: "exec", Security: needs(auth.MachinesExec), Method: http.MethodPost, Path: "/machines/{id}/exec", Tags: tags, MaxBodyBytes: execMaxBody,
		Summary:     "Run a command",
		Description: "Answers when the command has ended; a client that goes away kills it, unless it sent an `Idempotency-Key`. With `Upgrade: hyperfleet-exec` the command is streamed, and goes on for a while when the client goes away.",
		Responses: map[string]*huma.Response{
			"200": {Description: "How the command ended", Content: jsonContent(schemaOf[hyperfleet.ExecResult](s))},
			"101": upgraded,
		},
	}, refuse), s.exec, ofGuest, failures{errdefs.Throttled})
	register(s, huma.Operation{
		OperationID: "attachExec", Security: needs(auth.MachinesExec), Method: http.MethodPost, Path: "/machines/{id}/exec/{exec_id}/attach", Tags: tags,
		Summary:       "Go on with a streamed command; needs Upgrade: hyperfleet-exec",
		DefaultStatus: http.StatusSwitchingProtocols,
		Responses:     map[string]*huma.Response{"101": upgraded},
	}, s.attachExec, ofGuest)
	register(s, huma.Operation{
		OperationID: "execStatus", Security: needs(auth.MachinesExec), Method: http.MethodGet, Path: "/machines/{id}/exec/{exec_id}", Tags: tags, Summary: "Ask how a command is doing",
	}, s.execStatus, ofGuest)
}

type execInput struct {
	MachineParam
	Upgrade string `header:"Upgrade" doc:"hyperfleet-exec for a streamed command"`
	Body    execBody
}

type execBody struct {
	hyperfleet.ExecRequest
	Cmd []string `json:"cmd,omitempty" maxItems:"65536" doc:"The same as command, which wins"`
}

// request is the command that the body asks for, without its timeout.
func (b execBody) request() (machine.ExecRequest, error) {
	argv := b.Command
	if len(argv) == 0 {
		argv = b.Cmd
	}
	if len(argv) == 0 {
		return machine.ExecRequest{}, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "command is required")
	}
	env, err := environment(b.Env)
	return machine.ExecRequest{ID: b.ExecID, Argv: argv, Env: env, WorkDir: b.WorkDir, User: b.User}, err
}

// stdin is the input that the body carries, nil when there is none.
func (b execBody) stdin() ([]byte, error) {
	if b.Stdin == "" {
		return nil, nil
	}
	if b.Encoding != "base64" {
		return []byte(b.Stdin), nil
	}
	raw, err := base64.StdEncoding.DecodeString(b.Stdin)
	if err != nil {
		return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "stdin is not base64")
	}
	return raw, nil
}

func (s *Server) exec(ctx context.Context, in *execInput) (*huma.StreamResponse, error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	req, err := in.Body.request()
	if err != nil {
		return nil, err
	}
	if err := s.running(ctx, id, "to execute commands"); err != nil {
		return nil, err
	}
	release, err := s.execLimit.take(ctx)
	if err != nil {
		return nil, err
	}
	if in.Upgrade == hyperfleet.ExecProtocol {
		return s.execStream(ctx, id, req, in.Body, release)
	}
	defer release()
	out, err := s.execBuffered(ctx, id, req, in.Body)
	if err != nil {
		if slices.Contains(codesOfLost, errdefs.CodeOf(err)) {
			onceOf(ctx).setUnknown()
		}
		return nil, machineErr(err)
	}
	return &huma.StreamResponse{Body: out.send}, nil
}

// execOutput is the result of a buffered exec.
type execOutput struct {
	id             string
	status         machine.ExitStatus
	stdout, stderr *spool
	encoding       string
}

func (o *execOutput) close() {
	o.stdout.close()
	o.stderr.close()
}

// send writes the result as JSON without ever holding it whole.
func (o *execOutput) send(hc huma.Context) {
	defer o.close()
	hc.SetHeader("Content-Type", "application/json")
	hc.SetStatus(http.StatusOK)
	w := bufio.NewWriterSize(hc.BodyWriter(), 32<<10)
	if err := o.write(w); err != nil {
		panic(http.ErrAbortHandler) // the caller sees a cut answer, not a short one
	}
}

func (o *execOutput) write(w *bufio.Writer) error {
	put := writeJSONString
	if o.encoding == "base64" {
		put = writeJSONBase64
	}
	fmt.Fprintf(w, `{"exit_code":%d,"stdout":`, o.status.Code)
	if err := put(w, o.stdout.reader()); err != nil {
		return err
	}
	fmt.Fprint(w, `,"stderr":`)
	if err := put(w, o.stderr.reader()); err != nil {
		return err
	}
	rest, err := json.Marshal(struct {
		Signal   string `json:"signal,omitempty"`
		ExecID   string `json:"exec_id"`
		Encoding string `json:"encoding,omitempty"`
	}{o.status.Signal, o.id, o.encoding})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, ",%s\n", rest[1:])
	return w.Flush()
}

// execBuffered runs a command to its end. When ctx ends before, or the output
// is too large, it kills the command.
func (s *Server) execBuffered(ctx context.Context, id machine.ID, req machine.ExecRequest, body execBody) (*execOutput, error) {
	input, err := body.stdin()
	if err != nil {
		return nil, err
	}
	req.Stdin = input != nil
	req.Timeout = s.timeout(body.Timeout)
	ctx, cancel := context.WithTimeout(ctx, req.Timeout+execSlack)
	defer cancel()
	proc, err := s.cfg.Machines.Exec(ctx, id, req)
	if err != nil {
		return nil, err
	}
	onceOf(ctx).setBegun()
	forget := s.execs.buffered(execKey{id, proc.ID()})
	var budget atomic.Int64
	budget.Store(s.cfg.ExecMaxOutput)
	out := &execOutput{id: proc.ID(), encoding: body.Encoding, stdout: s.spools.open(&budget), stderr: s.spools.open(&budget)}
	out.status, err = s.collect(ctx, proc, input, out.stdout, out.stderr)
	forget(out.status, err)
	if err == nil && out.status.TimedOut {
		err = errdefs.New(errdefs.Timeout, "TIMEOUT_ERROR", "Command execution timed out after %g seconds", req.Timeout.Seconds())
	}
	if err != nil {
		out.close()
		return nil, err
	}
	return out, nil
}

// timeout is how long a buffered exec may take.
func (s *Server) timeout(asked float64) time.Duration {
	if asked == 0 {
		return s.cfg.ExecDefaultTimeout
	}
	if asked > s.cfg.ExecMaxTimeout.Seconds() {
		return s.cfg.ExecMaxTimeout
	}
	return seconds(asked)
}

// collect feeds and reads a command until it has ended, and lets go of it. It
// kills the command when it cannot see it through.
func (s *Server) collect(ctx context.Context, proc machine.Process, input []byte, stdout, stderr io.Writer) (machine.ExitStatus, error) {
	ctx, abort := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	watched := make(chan struct{})
	wg.Go(func() {
		select {
		case <-ctx.Done():
			s.kill(ctx, proc)
		case <-watched:
		}
		letGo(proc) // unblocks every reader and writer
	})
	if input != nil {
		wg.Go(func() {
			_, _ = proc.Stdin().Write(input) // a command need not read its input
			proc.Stdin().Close()
		})
	}
	var streams sync.WaitGroup
	drain := func(w io.Writer, r io.Reader) {
		if _, err := io.CopyBuffer(onlyWriter{w}, r, make([]byte, 32<<10)); err != nil {
			abort(err)
		}
	}
	streams.Go(func() { drain(stdout, proc.Stdout()) })
	streams.Go(func() { drain(stderr, proc.Stderr()) })
	streams.Wait()
	var status machine.ExitStatus
	err := context.Cause(ctx)
	if err == nil {
		status, err = proc.Wait(ctx)
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	close(watched)
	wg.Wait()
	abort(nil)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errdefs.Wrap(err, errdefs.Guest, "VSOCK_ERROR", "the guest did not say how the command ended")
	}
	return status, err
}

type onlyWriter struct{ io.Writer }

// letGo closes our end of a command; there is nothing that could fail.
func letGo(proc machine.Process) { _ = proc.Close() }

// kill ends a command with all its children. The guest's answer matters to
// nobody: its own timeout is the second line.
func (s *Server) kill(ctx context.Context, proc machine.Process) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancel()
	if err := proc.Signal(ctx, sigKill); err != nil {
		s.logger(ctx).Debug("kill a command", "exec", proc.ID(), "err", err)
	}
}

// ExecParam is the part of an input that names a command.
type ExecParam struct {
	MachineParam
	ExecID string `path:"exec_id" pattern:"^[0-9A-Za-z_-]{1,64}$"`
}

func (s *Server) execStatus(ctx context.Context, in *ExecParam) (*response[hyperfleet.ExecStatus], error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	st := hyperfleet.ExecStatus{ExecID: in.ExecID, Running: true}
	exit, err := s.execs.status(ctx, execKey{id, in.ExecID}, func() (machine.Process, error) {
		return s.cfg.Machines.AttachExec(ctx, id, in.ExecID, endOfOutput)
	})
	if err != nil {
		return nil, machineErr(err)
	}
	if exit != nil {
		st.Running, st.ExitCode, st.Signal, st.TimedOut = false, &exit.Code, exit.Signal, exit.TimedOut
	}
	return &response[hyperfleet.ExecStatus]{st}, nil
}
