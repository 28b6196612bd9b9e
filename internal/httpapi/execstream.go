package httpapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// execStream starts a command and hands it with its connection to a session.
func (s *Server) execStream(ctx context.Context, id machine.ID, req machine.ExecRequest, body execBody, release func()) (*huma.StreamResponse, error) {
	req.Stdin = body.AttachStdin
	if body.Timeout > 0 {
		req.Timeout = s.timeout(body.Timeout)
	}
	proc, err := s.cfg.Machines.Exec(ctx, id, req)
	if err != nil {
		return nil, machineErr(err)
	}
	return s.takeOver(ctx, id, proc, release), nil
}

type attachInput struct {
	ExecParam
	Upgrade string `header:"Upgrade" doc:"hyperfleet-exec"`
	Body    hyperfleet.ExecOffsets
}

func (s *Server) attachExec(ctx context.Context, in *attachInput) (*huma.StreamResponse, error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	if in.Upgrade != hyperfleet.ExecProtocol {
		return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "attaching needs the header Upgrade: %s", hyperfleet.ExecProtocol)
	}
	if err := s.running(ctx, id, "to execute commands"); err != nil {
		return nil, err
	}
	if err := s.execs.release(execKey{id, in.ExecID}); err != nil {
		return nil, err
	}
	proc, err := s.cfg.Machines.AttachExec(ctx, id, in.ExecID, machine.Offsets{Stdout: in.Body.Stdout, Stderr: in.Body.Stderr})
	if err != nil {
		return nil, machineErr(err)
	}
	return s.takeOver(ctx, id, proc, s.execLimit.force(ctx)), nil // it runs already
}

// takeOver answers 101 and gives the connection to a session. A connection that
// broke by now is the session's to notice: the client may come back.
func (s *Server) takeOver(ctx context.Context, id machine.ID, proc machine.Process, release func()) *huma.StreamResponse {
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		_, w := humago.Unwrap(hc)
		conn, err := hijack(w)
		if err != nil {
			s.logger(ctx).Error("take over the connection of a streamed exec", "exec", proc.ID(), "err", err)
			s.kill(ctx, proc)
			letGo(proc)
			release()
			panic(http.ErrAbortHandler)
		}
		held := newSession(proc, conn, s.logger(ctx))
		held.release = release
		if err := s.execs.run(execKey{id, proc.ID()}, held); err != nil {
			conn.Close()
			letGo(proc)
			release()
		}
	}}
}

// hijack answers 101 and returns the connection without deadlines, closed when
// the answer could not be sent. It fails when there is no connection to have.
func hijack(w http.ResponseWriter) (net.Conn, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	var head strings.Builder
	fmt.Fprintf(&head, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n", hyperfleet.ExecProtocol)
	fmt.Fprintf(&head, "%s: %s\r\n\r\n", headerRequestID, w.Header().Get(headerRequestID))
	_ = conn.SetDeadline(time.Now().Add(writeStall)) // the write tells of a broken connection
	_, err = conn.Write([]byte(head.String()))
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
	}
	return &hijacked{Conn: conn, buffered: rw.Reader}, nil
}
