package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func (s *Server) registerLogs(tags []string) {
	register(s, huma.Operation{
		OperationID: "machineLogs", Security: needs(auth.MachinesRead), Method: http.MethodGet, Path: "/machines/{id}/logs", Tags: tags, Summary: "Read a machine's log",
		Description: "What the guest wrote to its serial console, and what became of the machine and of its agent session. " +
			"The log is bounded: the oldest lines go first. It is kept over stops and failures until the machine is deleted. " +
			"As lines of text, or with `Accept: application/x-ndjson` as one entry for each line. " +
			"With `follow=true` the answer goes on until the machine's VMM has ended, or the caller leaves; " +
			"of a machine that neither runs nor starts it ends at once.",
		Responses: map[string]*huma.Response{"200": {Description: "The lines, oldest first", Content: map[string]*huma.MediaType{
			"text/plain": {Schema: &huma.Schema{Type: "string"}}, ndjson: {Schema: schemaOf[hyperfleet.LogEntry](s)},
		}}},
	}, s.machineLogs, ofMachine)
}

type logsInput struct {
	MachineParam
	Source string `query:"source" enum:"serial,agent,all" default:"all" doc:"serial: all of the serial console. agent: the lines of the guest's init, which are part of both, and the events that the host saw"`
	Follow bool   `query:"follow" doc:"Go on with what comes"`
	Tail   int    `query:"tail" minimum:"-1" maximum:"1000000" default:"-1" doc:"At most so many lines of what is there already; -1 means all"`
	Accept string `header:"Accept" doc:"application/x-ndjson for entries with time and source"`
}

func (s *Server) machineLogs(ctx context.Context, in *logsInput) (*huma.StreamResponse, error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	log, err := s.cfg.Machines.Logs(ctx, id, machine.LogRequest{Source: in.Source, Tail: in.Tail, Follow: in.Follow})
	if err != nil {
		return nil, machineErr(err)
	}
	var put putEntry = new(textLog).put
	contentType := "text/plain; charset=utf-8"
	if strings.Contains(in.Accept, ndjson) {
		put, contentType = putJSONEntry, ndjson
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer log.Close()
		hc.SetHeader("Content-Type", contentType)
		hc.SetHeader("X-Content-Type-Options", "nosniff")
		hc.SetStatus(http.StatusOK)
		_, w := humago.Unwrap(hc)
		if err := sendLog(hc.Context(), w, log, put); err != nil {
			if hc.Context().Err() == nil {
				s.logger(hc.Context()).Debug("send a log", "err", err)
			}
			panic(http.ErrAbortHandler) // the caller sees a cut answer, not a short one
		}
	}}, nil
}

type putEntry func(w *bufio.Writer, e machine.LogEntry) error

// sendLog writes entries until the log's end, and flushes before it waits. A
// caller that does not read holds up nobody else: the journal goes on without
// it, and writeStall ends the answer.
func sendLog(ctx context.Context, w http.ResponseWriter, log *machine.LogReader, put putEntry) error {
	buf := bufio.NewWriterSize(w, 32<<10)
	flush := func() error { return errors.Join(buf.Flush(), http.NewResponseController(w).Flush()) }
	if err := flush(); err != nil { // the headers: a follower learns at once that it follows
		return err
	}
	for {
		e, err := log.Poll()
		if errors.Is(err, machine.ErrLogWait) {
			if err := flush(); err != nil {
				return err
			}
			e, err = log.Next(ctx)
		}
		if errors.Is(err, io.EOF) {
			return buf.Flush()
		}
		if err == nil {
			err = put(buf, e)
		}
		if err != nil {
			return err
		}
	}
}

const lostLines = "[hyperfleet: lines are missing here: they were not read in time]\n"

// textLog writes entries as lines of text.
type textLog struct{ open bool } // the last line has no end yet

func (t *textLog) put(w *bufio.Writer, e machine.LogEntry) error {
	console := e.Source == "serial" || e.Source == "init"
	b := w.AvailableBuffer()
	if t.open && (e.Lost || !console) { // another source speaks in the middle of a line
		b = append(b, '\n')
	}
	t.open = e.Partial
	switch {
	case e.Lost:
		b = append(b, lostLines...)
	case !console:
		b = fmt.Appendf(b, "[hyperfleet: %s]\n", e.Line)
	case e.Partial:
		b = append(b, e.Line...)
	default:
		b = append(append(b, bytes.TrimSuffix(e.Line, []byte{'\r'})...), '\n')
	}
	_, err := w.Write(b)
	return err
}

func putJSONEntry(w *bufio.Writer, e machine.LogEntry) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	out := hyperfleet.LogEntry{Time: e.Time, Source: string(e.Source), Line: string(e.Line), Partial: e.Partial, Lost: e.Lost}
	if !e.Partial {
		out.Line = strings.TrimSuffix(out.Line, "\r")
	}
	return enc.Encode(out)
}
