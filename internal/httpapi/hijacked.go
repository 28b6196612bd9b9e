package httpapi

import (
	"bufio"
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// hijacked is a connection that was taken over from the HTTP server, which may
// have read the first frames already.
type hijacked struct {
	net.Conn
	buffered *bufio.Reader
}

// Read returns what the HTTP server has read first.
func (h *hijacked) Read(p []byte) (int, error) { return h.buffered.Read(p) }

// CloseWrite ends our half of the connection.
func (h *hijacked) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// signals are the Linux numbers of the signals that amd64 and arm64 share.
var signals = map[string]int{
	"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9,
	"USR1": 10, "SEGV": 11, "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "CHLD": 17, "CONT": 18,
	"STOP": 19, "TSTP": 20, "TTIN": 21, "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26,
	"PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}

// parseSignal accepts "TERM", "SIGTERM" and "15".
func parseSignal(name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n >= 1 && n <= 64 {
		return n, nil
	}
	if n, ok := signals[strings.TrimPrefix(strings.ToUpper(name), "SIG")]; ok {
		return n, nil
	}
	return 0, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "%.32q is no signal", name)
}
