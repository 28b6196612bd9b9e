package machine

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"

	"github.com/hyperfleet/hyperfleet/internal/machine/journal"
)

// LogReader reads a machine's log entry by entry; see package journal.
type LogReader = journal.Reader

// LogEntry is a line of a machine's log, or a piece of one.
type LogEntry = journal.Entry

// ErrLogWait is what LogReader.Poll returns when the next entry has not come.
var ErrLogWait = journal.ErrWait

// LogRequest says what of a log is wanted.
type LogRequest struct {
	Source string // "serial", "agent", or "all"; "" means all
	Tail   int    // at most so many lines of what is there; negative means all
	// Follow goes on with what comes, until the machine's VMM has ended. Of a
	// machine that neither runs nor starts nothing comes.
	Follow bool
}

// logSources are the log's sources behind the names that callers have for them.
// The lines of the guest's init belong to both: they are the agent's, and came
// over the console.
var logSources = map[string][]journal.Source{
	"":       nil,
	"all":    nil,
	"serial": {journal.Serial, journal.Init},
	"agent":  {journal.Init, journal.Session},
}

// Logs opens a machine's log, in whatever state it is: the log is kept until the
// machine is deleted. The caller closes it.
func (m *Manager) Logs(ctx context.Context, id ID, req LogRequest) (*LogReader, error) {
	sources, ok := logSources[req.Source]
	if !ok {
		return nil, invalid("source must be serial, agent or all")
	}
	opts := journal.Options{Sources: sources, Tail: req.Tail, Follow: req.Follow}
	if e := m.lookup(id); e != nil {
		if log := e.journal(); log != nil {
			return log.Read(opts)
		}
	}
	if _, err := m.cfg.Store.Machine(ctx, id); err != nil {
		return nil, err
	}
	return journal.OpenReader(m.stateDir(id), opts)
}

// Console opens the record of the machine's serial console, byte for byte: of
// the run that is on, else what the log has kept. The caller closes it.
func (m *Manager) Console(ctx context.Context, id ID) (io.ReadCloser, error) {
	if e := m.lookup(id); e != nil {
		if l := e.current(); l != nil {
			return l.vm.Console()
		}
	}
	r, err := m.Logs(ctx, id, LogRequest{Source: "serial", Tail: -1})
	if err != nil {
		return nil, err
	}
	return &consoleReader{r: r}, nil
}

// consoleReader is the console's bytes out of a log.
type consoleReader struct {
	r    *LogReader
	rest []byte
}

func (c *consoleReader) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		e, err := c.r.Poll()
		if errors.Is(err, ErrLogWait) {
			err = io.EOF
		}
		if err != nil {
			return 0, err
		}
		c.rest = e.Line
		if !e.Partial && !e.Lost {
			c.rest = append(slices.Clip(c.rest), '\n')
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *consoleReader) Close() error {
	c.r.Close()
	return nil
}

// openLog makes the machine's log ready for a run. One that cannot be written is
// told of here, and keeps no machine from running.
func (m *Manager) openLog(e *entry) {
	dir := m.stateDir(e.id)
	err := os.MkdirAll(dir, 0o700)
	var log *journal.Journal
	if err == nil {
		log, err = journal.Open(dir, m.cfg.LogBytes)
	}
	if err != nil {
		m.cfg.Log.Error("machine runs without a log", "machine", e.id, "err", err)
		return
	}
	e.closeLog(m)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.log = log
}

// closeLog ends the run's log; whoever follows it reads the rest and is done.
// It is idempotent.
func (e *entry) closeLog(m *Manager) {
	e.mu.Lock()
	log := e.log
	e.log = nil
	e.mu.Unlock()
	if err := log.Close(); err != nil {
		m.cfg.Log.Error("close machine log", "machine", e.id, "err", err)
	}
}

// journal is the log of the run that is on, nil when there is none.
func (e *entry) journal() *journal.Journal {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log
}

// console is where the run's VMM writes the serial console.
func (e *entry) console() io.Writer {
	if log := e.journal(); log != nil {
		return log
	}
	return nil
}

// note writes an event into the run's log, if there is one. The text is for
// whoever may read the machine: no secret, no path of the host.
func (e *entry) note(event string) { e.journal().Note("%s", event) }
