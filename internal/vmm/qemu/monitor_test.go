package qemu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// scripted is a connection whose other end says its script, whatever it is told.
type scripted struct {
	net.Conn
	script io.Reader
}

func (c scripted) Read(p []byte) (int, error)  { return c.script.Read(p) }
func (c scripted) Write(p []byte) (int, error) { return len(p), nil }
func (c scripted) SetDeadline(time.Time) error { return nil }
func (c scripted) Close() error                { return nil }

// talk runs f against a monitor that says script.
func talk(t *testing.T, script string, f func(m *monitor)) {
	t.Helper()
	m := newMonitor(t.Context(), scripted{script: strings.NewReader(script)})
	defer m.Close()
	f(m)
}

func TestMonitorAnswers(t *testing.T) {
	const greeting = `{"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}}` + "\r\n"
	for _, c := range []struct {
		name, script string
		ok           bool
	}{
		{"plain", greeting + `{"return": {}, "id": 1}` + "\r\n", true},
		{"after events", greeting + `{"event": "RESUME"}` + "\n" + `{"return": {}, "id": 7}` + "\n" + `{"return": {}, "id": 1}` + "\n", true},
		{"error", greeting + `{"error": {"class": "CommandNotFound", "desc": "x"}, "id": 1}` + "\n", false},
		{"error without id", greeting + `{"error": {"class": "GenericError", "desc": "x"}}` + "\n", false},
		{"no greeting", `{"return": {}, "id": 1}` + "\n", false},
		{"no JSON", greeting + "hello\n", false},
		{"cut off", greeting + `{"return"`, false},
		{"only events", greeting + strings.Repeat(`{"event": "X"}`+"\n", maxSkipped+1), false},
		{"endless line", greeting + strings.Repeat("x", maxMessage+1), false},
		{"nothing", "", false},
	} {
		talk(t, c.script, func(m *monitor) {
			if err := m.greet(); (err == nil) != c.ok {
				t.Errorf("%s: %v", c.name, err)
			}
		})
	}
}

func TestMonitorErrorIsData(t *testing.T) {
	talk(t, `{"error": {"class": "GenericError", "desc": "a\nb"}, "id": 1}`+"\n", func(m *monitor) {
		err := m.execute("stop", nil, nil)
		var answer *monitorError
		if !errors.As(err, &answer) || answer.Class != "GenericError" || strings.Contains(err.Error(), "\n") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestMonitorEndsWithItsContext(t *testing.T) {
	ours, theirs := net.Pipe()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	m := newMonitor(ctx, ours)
	defer m.Close()
	go cancel()
	if err := m.greet(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("greet gives %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}` + "\n" + `{"return": {}, "id": 1}` + "\n"))
	f.Add([]byte(`{"error": {"class": "x", "desc": "y"}, "id": null}` + "\n"))
	f.Add([]byte(`{"event": "STOP", "timestamp": {"seconds": 1}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := &monitor{r: bufio.NewReaderSize(bytes.NewReader(b), maxMessage), id: 1}
		for {
			answer, err := m.answer()
			if err != nil && errors.Is(err, io.EOF) {
				return
			}
			if err == nil && len(answer) > maxMessage {
				t.Errorf("answer of %d bytes", len(answer))
			}
			if _, ok := errors.AsType[*monitorError](err); err != nil && !ok {
				return
			}
		}
	})
}
