package hyperfleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// LogSource narrows a machine's log.
type LogSource string

// The sources of a log.
const (
	LogAll    LogSource = "all"    // everything
	LogSerial LogSource = "serial" // the guest's serial console
	LogAgent  LogSource = "agent"  // what the guest's init says, and what the host saw of the machine and its agent
)

// LogOptions say what of a log is wanted. The zero value is all that is there.
type LogOptions struct {
	Source LogSource // "" means LogAll
	Tail   int       // at most so many lines of what is there; 0 means all, negative none
	// Follow goes on with what comes, until the machine's VMM has ended. Of a
	// machine that neither runs nor starts, the log ends at once.
	Follow bool
}

// LogEntry is one line of a machine's log.
type LogEntry struct {
	Time    time.Time `json:"time" doc:"When the host got it"`
	Source  string    `json:"source" enum:"serial,init,session" doc:"serial: the serial console; init: a line of it that hyperfleet-init wrote; session: an event that the host saw"`
	Line    string    `json:"line" doc:"Without its end; bytes that are no UTF-8 are replaced"`
	Partial bool      `json:"partial,omitempty" doc:"The rest of the line follows in another entry"`
	Lost    bool      `json:"lost,omitempty" doc:"No entry but a gap: some were gone before they were read"`
}

// MachineLogs returns a machine's log as lines of text, in whatever state the
// machine is. The caller closes it, or ends ctx, which also bounds the reading.
func (c *Client) MachineLogs(ctx context.Context, id string, o LogOptions) (io.ReadCloser, error) {
	resp, err := c.send(ctx, o.call(id, "text/plain"))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// MachineLogEntries is MachineLogs by entries, with their times and sources. An
// error is the last thing that it yields.
func (c *Client) MachineLogEntries(ctx context.Context, id string, o LogOptions) iter.Seq2[LogEntry, error] {
	return func(yield func(LogEntry, error) bool) {
		resp, err := c.send(ctx, o.call(id, contentNDJSON))
		if err != nil {
			yield(LogEntry{}, err)
			return
		}
		defer resp.Body.Close()
		dec := json.NewDecoder(bufio.NewReader(resp.Body))
		for {
			var e LogEntry
			err := dec.Decode(&e)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				err = fmt.Errorf("read the log of machine %s: %w", id, err)
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (o LogOptions) call(id, accept string) call {
	query := url.Values{}
	if o.Source != "" {
		query.Set("source", string(o.Source))
	}
	if o.Tail != 0 {
		query.Set("tail", strconv.Itoa(max(o.Tail, 0)))
	}
	if o.Follow {
		query.Set("follow", "true")
	}
	return call{method: http.MethodGet, path: machinePath(id, "logs"), query: query, header: http.Header{"Accept": {accept}}}
}
