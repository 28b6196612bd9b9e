package initd

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"sync"
	"time"
)

// console writes log lines as JSON objects, one per line, for the host that
// keeps the serial console.
type console struct {
	mu sync.Mutex
	w  io.Writer
}

// newLog returns a logger whose lines go to w as JSON.
func newLog(w io.Writer) *log.Logger { return log.New(&console{w: w}, "", 0) }

// Write takes one line of log.Logger. It reports success whatever the console
// does: nobody could act on it.
func (c *console) Write(p []byte) (int, error) {
	line, err := json.Marshal(struct {
		Time   string `json:"time"`
		Source string `json:"source"`
		Msg    string `json:"msg"`
	}{time.Now().UTC().Format(time.RFC3339Nano), "hyperfleet-init", string(bytes.TrimSpace(p))})
	if err == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		_, _ = c.w.Write(append(line, '\n'))
	}
	return len(p), nil
}
