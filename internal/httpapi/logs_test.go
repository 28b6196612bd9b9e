package httpapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestLogsFollow(t *testing.T) {
	a := newAPI(t)
	m := a.running()
	log, err := a.MachineLogs(t.Context(), m.ID, hyperfleet.LogOptions{Source: hyperfleet.LogSerial, Tail: 1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("the log says %q, %v, want %q", lines.Text(), lines.Err(), want)
		}
	}
	next("booting")
	for _, line := range []string{"one", "two"} {
		a.host.Say(machine.ID(m.ID), line+"\r\n")
		next(line)
	}
	if _, err := a.StopMachine(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	next("reboot: Restarting system")
	if lines.Scan() || lines.Err() != nil {
		t.Errorf("after the stop the log goes on with %q, %v", lines.Text(), lines.Err())
	}
}

// Entries tell their source; a machine's whole story is in them.
func TestLogEntries(t *testing.T) {
	a := newAPI(t)
	m := a.running()
	initLine := `{"time":"2026-02-03T04:05:06Z","source":"hyperfleet-init","msg":"<mounted>"}`
	a.host.Say(machine.ID(m.ID), initLine+"\r\n\xffpart")
	if _, err := a.PauseMachine(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	a.host.End(machine.ID(m.ID), machine.Exit{Known: true, Code: 1, Console: "Kernel panic - not syncing: x"})
	if _, err := a.WaitMachine(t.Context(), m.ID, hyperfleet.StatusFailed, 0); err != nil {
		t.Fatal(err)
	}
	want := []hyperfleet.LogEntry{
		{Source: "session", Line: "start"},
		{Source: "serial", Line: "booting"},
		{Source: "session", Line: "fake session is up"},
		{Source: "session", Line: "machine is running"},
		{Source: "init", Line: initLine},
		{Source: "session", Line: "machine is paused"},
		{Source: "serial", Line: "\ufffdpartKernel panic - not syncing: x"},
		{Source: "session", Line: "machine failed: the VMM ended unexpectedly with status 1: Kernel panic - not syncing: x"},
	}
	i := 0
	for e, err := range a.MachineLogEntries(t.Context(), m.ID, hyperfleet.LogOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		e.Time = want[min(i, len(want)-1)].Time
		if i >= len(want) || e != want[i] {
			t.Errorf("entry %d is %+v", i, e)
		}
		i++
	}
	if i != len(want) {
		t.Errorf("%d entries, want %d", i, len(want))
	}
	var err error
	for _, err = range a.MachineLogEntries(t.Context(), "nosuch", hyperfleet.LogOptions{}) {
	}
	if !errors.Is(err, hyperfleet.ErrNotFound) {
		t.Errorf("log of an unknown machine: %v", err)
	}
}

// A start that fails leaves its log, and none once the machine is deleted.
func TestLogOfAFailedStart(t *testing.T) {
	a := newAPI(t)
	m, err := a.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{Name: "m", VCPUCount: 1, MemSizeMiB: 128, Image: "alpine"})
	if err != nil {
		t.Fatal(err)
	}
	a.host.RemoveImage("alpine")
	if _, err := a.StartMachine(t.Context(), m.ID); !errors.Is(err, hyperfleet.ErrNotFound) {
		t.Fatal(err)
	}
	_, got := a.ask("GET", "/machines/"+m.ID+"/logs?follow=true", "")
	if want := "[hyperfleet: start]\n[hyperfleet: machine could not be started: image alpine not found]\n"; got != want {
		t.Errorf("the log says %q, want %q", got, want)
	}
	if err := a.DeleteMachine(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	if left := a.host.Leftovers(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// A caller that leaves ends its follower; so does the daemon's end, which
// TestMain's look at goroutines shows.
func TestFollowerLeaves(t *testing.T) {
	returned := make(chan struct{}, 2)
	a := newAPI(t)
	m := a.running()
	watched := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() { returned <- struct{}{} }()
		a.server.TrustedHandler().ServeHTTP(w, r)
	})
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: watched}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	c := &hyperfleet.Client{Host: "http://" + l.Addr().String()}
	ctx, cancel := context.WithCancel(t.Context())
	follow := func() io.ReadCloser {
		log, err := c.MachineLogs(ctx, m.ID, hyperfleet.LogOptions{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(log, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return log
	}
	follow().Close()
	<-returned
	defer follow().Close()
	cancel()
	<-returned
	c.CloseIdleConnections()
	server.Close()
	<-served
}

// A caller that does not read keeps nobody from writing, and is shown the gap.
func TestSlowFollowerHoldsNobody(t *testing.T) {
	a := newAPI(t)
	m := a.running()
	log, err := a.MachineLogs(t.Context(), m.ID, hyperfleet.LogOptions{Source: hyperfleet.LogSerial, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	flood := strings.Repeat(strings.Repeat("x", 1000)+"\n", 1000)
	for range 24 { // far more than sockets and the log hold
		a.host.Say(machine.ID(m.ID), flood)
	}
	if _, err := a.StopMachine(t.Context(), m.ID); err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(raw); strings.Count(got, lostLines) == 0 || !strings.HasSuffix(got, "x\nreboot: Restarting system\n") {
		t.Errorf("%d bytes, %d gaps, ending in %.60q", len(got), strings.Count(got, lostLines), got[max(0, len(got)-60):])
	}
}
