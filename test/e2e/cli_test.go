//go:build vm

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

func TestRunCommand(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	stdout, stderr, code := h.CLI("run", "--rm", image, "--", "sh", "-c", "echo out; echo err >&2; exit 6")
	if code != 6 || stdout != "out\n" || !strings.Contains(stderr, "err\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil || len(list) != 0 {
		t.Errorf("after run --rm: %v, %v", list, err)
	}
}

// Without a daemon run brings its own engine, and takes standard input.
func TestRunWithoutDaemon(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	h.StopDaemon()
	cmd := exec.CommandContext(t.Context(), filepath.Join(h.Bin, "hyperfleet"), "run", "--rm", image, "--", "cat")
	cmd.Env = h.Env
	cmd.Stdin = strings.NewReader("through the guest\n")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || stdout.String() != "through the guest\n" {
		t.Errorf("%v, stdout %q, stderr %q", err, stdout.String(), stderr.String())
	}
	if left := h.VMMs(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(h.Run, "api.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a socket is left: %v", err)
	}
}
