package qemu

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/vmmtest"
)

// TestMain makes the test binary a QEMU when it is called like one: started by
// the driver, with what it has to do wrong on its kernel command line.
func TestMain(m *testing.M) {
	if i := slices.Index(os.Args, "-append"); i > 0 {
		_, mode, _ := strings.Cut(os.Args[i+1], "fake=")
		os.Exit(fakeQEMU(mode))
	}
	os.Exit(vmmtest.Main(m, newDriver))
}

func newDriver() machine.Driver { return New(Options{}) }

// fakeQEMU serves the monitor as QEMU does, but for what mode says.
func fakeQEMU(mode string) int {
	if mode == "exits" {
		fmt.Fprintln(os.Stderr, "qemu: could not load kernel: wrong magic")
		return 1
	}
	ln, err := net.FileListener(os.NewFile(monitorFD(), "monitor"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	conn, err := ln.Accept()
	if err != nil {
		return 1
	}
	switch mode {
	case "mute":
		select {}
	case "garbage":
		io.WriteString(conn, "SSH-2.0-OpenSSH\n")
		select {}
	case "endless":
		for err == nil {
			_, err = io.WriteString(conn, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
		}
		return 1
	case "hangs up":
		fmt.Fprintln(os.Stderr, "qemu: internal error")
		return 1
	}
	fmt.Fprintln(conn, `{"QMP": {"version": {}, "capabilities": []}}`)
	for r := bufio.NewReader(conn); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			select {} // the daemon has gone; a QEMU stays
		}
		if fakeAnswer(conn, mode, line) {
			return 1
		}
	}
}

// fakeAnswer answers one command, and reports whether QEMU dies of it.
func fakeAnswer(w io.Writer, mode string, line []byte) (dies bool) {
	var cmd struct {
		Execute string
		ID      int
	}
	if err := json.Unmarshal(line, &cmd); err != nil {
		return true
	}
	fmt.Fprintln(w, `{"event": "NOISE", "data": {}}`)
	switch {
	case mode == cmd.Execute+" refused":
		fmt.Fprintf(w, `{"error": {"class": "GenericError", "desc": "no"}, "id": %d}`+"\n", cmd.ID)
	case mode == cmd.Execute+" kills":
		fmt.Fprintln(os.Stderr, "qemu: fatal error in", cmd.Execute)
		return true
	case mode == "ports taken" && cmd.Execute == "human-monitor-command":
		fmt.Fprintf(w, `{"return": "could not set up host forwarding rule\r\n", "id": %d}`+"\n", cmd.ID)
	case cmd.Execute == "human-monitor-command":
		fmt.Fprintf(w, `{"return": "", "id": %d}`+"\n", cmd.ID)
	default:
		fmt.Fprintf(w, `{"return": {}, "id": %d}`+"\n", cmd.ID)
	}
	return false
}

func monitorFD() uintptr {
	for _, arg := range os.Args {
		if rest, ok := strings.CutPrefix(arg, "socket,id=monitor,fd="); ok {
			number, _, _ := strings.Cut(rest, ",")
			fd, err := strconv.Atoi(number)
			if err == nil {
				return uintptr(fd)
			}
		}
	}
	return 0
}
