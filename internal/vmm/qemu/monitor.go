package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// monitorTimeout bounds a whole conversation with a monitor. A stopped
	// QEMU answers in milliseconds, also on a busy host.
	monitorTimeout = 30 * time.Second
	// maxMessage bounds one line of the monitor, in bytes. The longest that
	// is of use, an answer to human-monitor-command, is a few hundred.
	maxMessage = 64 << 10
	// maxSkipped bounds the events that are passed over before an answer.
	maxSkipped = 1000
)

// monitor is a client of QEMU's monitor protocol: one JSON object per line,
// https://www.qemu.org/docs/master/interop/qmp-spec.html. QEMU is not trusted
// further than its guest is: lines are bounded, and every call has a deadline.
// It is used by one goroutine, for one conversation.
type monitor struct {
	conn net.Conn
	r    *bufio.Reader
	id   int64
	stop func() bool
}

// message is what a monitor says: its greeting, an answer or an event.
type message struct {
	Greeting json.RawMessage `json:"QMP"`
	Return   json.RawMessage `json:"return"`
	Error    *monitorError   `json:"error"`
	Event    string          `json:"event"`
	ID       *int64          `json:"id"`
}

// monitorError is an answer that says no.
type monitorError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *monitorError) Error() string { return fmt.Sprintf("%s: %.200q", e.Class, e.Desc) }

// dialMonitor connects to the monitor in dir and shakes hands. The caller
// closes it; ctx bounds the whole conversation.
func dialMonitor(ctx context.Context, dir string) (*monitor, error) {
	conn, err := dial(ctx, dir, monitorSocket)
	if err != nil {
		return nil, err
	}
	m := newMonitor(ctx, conn)
	if err := m.greet(); err != nil {
		m.Close()
		return nil, fmt.Errorf("greet VMM: %w", err)
	}
	return m, nil
}

func newMonitor(ctx context.Context, conn net.Conn) *monitor {
	_ = conn.SetDeadline(time.Now().Add(monitorTimeout))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	return &monitor{conn: conn, r: bufio.NewReaderSize(conn, maxMessage), stop: stop}
}

func (m *monitor) greet() error {
	msg, err := readMessage(m.r)
	if err != nil {
		return err
	}
	if msg.Greeting == nil {
		return errors.New("no greeting")
	}
	return m.execute("qmp_capabilities", nil, nil)
}

// execute runs one command and decodes its answer into out, unless out is nil.
// An answer that says no is a *monitorError.
func (m *monitor) execute(command string, args, out any) error {
	if err := m.send(command, args); err != nil {
		return fmt.Errorf("monitor command %s: %w", command, err)
	}
	answer, err := m.answer()
	if err == nil && out != nil {
		err = json.Unmarshal(answer, out)
	}
	if err != nil {
		return fmt.Errorf("monitor command %s: %w", command, err)
	}
	return nil
}

func (m *monitor) send(command string, args any) error {
	m.id++
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        int64  `json:"id"`
	}{command, args, m.id})
	if err != nil {
		return err
	}
	_, err = m.conn.Write(append(line, '\n'))
	return err
}

func (m *monitor) answer() (json.RawMessage, error) {
	for range maxSkipped {
		msg, err := readMessage(m.r)
		if err != nil {
			return nil, err
		}
		if msg.ID == nil || *msg.ID != m.id {
			if msg.Error != nil && msg.ID == nil {
				return nil, msg.Error // it could not even read the command
			}
			continue // an event
		}
		if msg.Error != nil {
			return nil, msg.Error
		}
		return msg.Return, nil
	}
	return nil, errors.New("no answer among its events")
}

// Close ends the conversation. It is idempotent.
func (m *monitor) Close() {
	m.stop()
	m.conn.Close()
}

// readMessage reads one line.
func readMessage(r *bufio.Reader) (message, error) {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return message{}, fmt.Errorf("read monitor: %w", err)
	}
	var msg message
	if err := json.Unmarshal(line, &msg); err != nil {
		return message{}, fmt.Errorf("read monitor: %w", err)
	}
	return msg, nil
}
