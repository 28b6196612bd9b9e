package command_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
)

const limit = 30 * time.Second

type harness struct {
	*command.Engine
	t    testing.TB
	next int
}

func newEngine(t testing.TB) *harness {
	t.Helper()
	e := command.NewEngine(command.Config{Reaper: reaper})
	t.Cleanup(e.Wait)
	return &harness{Engine: e, t: t}
}

// request runs argv as whoever runs the tests.
func (h *harness) request(argv ...string) command.Request {
	h.next++
	return command.Request{
		ID: fmt.Sprintf("c%d", h.next), Argv: argv, Env: []string{"PATH=/usr/bin:/bin"},
		User: fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid()),
	}
}

func (h *harness) start(req command.Request) *command.Command {
	h.t.Helper()
	c, err := h.Start(req)
	if err != nil {
		h.t.Fatalf("start %q: %v", req.Argv, err)
	}
	return c
}

// run returns what a command prints and how it ends.
func (h *harness) run(req command.Request) (stdout, stderr string, status command.Status) {
	h.t.Helper()
	c := h.start(req)
	errs := make(chan string, 1)
	go func() { errs <- read(c.Stderr()) }()
	stdout = read(c.Stdout())
	return stdout, <-errs, h.ended(c)
}

func read(r *guestproto.Ring) string {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var b bytes.Buffer
	buf := make([]byte, 32<<10)
	rr := r.Reader(0)
	for {
		n, err := rr.Read(ctx, buf)
		b.Write(buf[:n])
		if err != nil {
			if !errors.Is(err, io.EOF) {
				fmt.Fprintf(&b, "<%v>", err)
			}
			return b.String()
		}
	}
}

func (h *harness) ended(c *command.Command) command.Status {
	h.t.Helper()
	select {
	case <-c.Ended():
		return c.Status()
	case <-time.After(limit):
		h.t.Fatal("command has not ended")
		return command.Status{}
	}
}

func TestArgvIsExact(t *testing.T) {
	h := newEngine(t)
	args := []string{"a; id -u", "$(id)", "'\"\\", "\x1b[1m\r\n\x01\x7f", "\xff\xfe", "", " ", "-n"}
	out, _, status := h.run(h.request(append([]string{"printf", `%s\0`}, args...)...))
	if want := strings.Join(args, "\x00") + "\x00"; out != want || status.Code != 0 {
		t.Errorf("got %q, %+v; want %q", out, status, want)
	}
}

func TestExitStatus(t *testing.T) {
	h := newEngine(t)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	noInterpreter := filepath.Join(dir, "nointerp")
	for name, content := range map[string]string{script: "echo \"$0|$1|$2\"\n", noInterpreter: "#!/nonexistent\n"} {
		if err := os.WriteFile(name, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("echo no\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		argv           []string
		stdout, stderr string
		want           command.Status
	}{
		{[]string{"sh", "-c", "exit 7"}, "", "", command.Status{Code: 7}},
		{[]string{"sh", "-c", "echo out; echo err >&2"}, "out\n", "err\n", command.Status{}},
		{[]string{"sh", "-c", "kill -9 $$"}, "", "", command.Status{Code: -1, Signal: "SIGKILL"}},
		{[]string{"sh", "-c", "kill -TERM $$"}, "", "", command.Status{Code: -1, Signal: "SIGTERM"}},
		{[]string{"nosuchprogram"}, "", "exec \"nosuchprogram\": executable file not found in $PATH\n", command.Status{Code: 127}},
		{[]string{"/no/such"}, "", "exec \"/no/such\": no such file or directory\n", command.Status{Code: 127}},
		{[]string{plain}, "", fmt.Sprintf("exec %q: permission denied\n", plain), command.Status{Code: 126}},
		{[]string{dir}, "", fmt.Sprintf("exec %q: permission denied\n", dir), command.Status{Code: 126}},
		{[]string{noInterpreter}, "", fmt.Sprintf("exec %q: interpreter of %s: no such file or directory\n", noInterpreter, noInterpreter), command.Status{Code: 127}},
		{[]string{script, "a b", "; id"}, script + "|a b|; id\n", "", command.Status{}},
	} {
		out, errs, status := h.run(h.request(tt.argv...))
		if out != tt.stdout || errs != tt.stderr || status != tt.want {
			t.Errorf("%q: %q, %q, %+v; want %q, %q, %+v", tt.argv, out, errs, status, tt.stdout, tt.stderr, tt.want)
		}
	}
}

func TestEnvironmentAndDirectory(t *testing.T) {
	h := newEngine(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), []byte("#!/bin/sh\necho $X $Y; pwd; echo $TERM\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	req := h.request("mine")
	req.Dir = dir
	req.Env = []string{"X=1", "PATH=/nowhere", "Y=a b", "PATH=/usr/bin:/bin:" + dir, "X=2"}
	out, _, _ := h.run(req)
	if want := "2 a b\n" + dir + "\nlinux\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	req = h.request("./mine")
	req.Dir = dir
	if _, errs, status := h.run(req); status.Code != 0 {
		t.Errorf("relative program: %+v %s", status, errs)
	}
}

func TestStartErrors(t *testing.T) {
	h := newEngine(t)
	running := h.request("sleep", "100")
	c := h.start(running)
	defer func() { requireNoError(t, c.Signal(unix.SIGKILL)) }()
	dir, user := h.request("true"), h.request("true")
	dir.Dir = "/no/such/folder"
	user.User = "no-such-user"
	for code, req := range map[string]command.Request{
		guestproto.CodeExecExists: running, guestproto.CodeNoWorkDir: dir, guestproto.CodeNoUser: user,
	} {
		_, err := h.Start(req)
		requireCode(t, err, code)
	}
	// What failed has left its id free.
	dir.Dir = ""
	if _, _, status := h.run(dir); status.Code != 0 {
		t.Errorf("second start: %+v", status)
	}
}

func requireCode(t testing.TB, err error, code string) {
	t.Helper()
	werr, ok := errors.AsType[*guestproto.Error](err)
	if !ok || werr.Code != code {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func requireNoError(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestTimeoutKillsTree(t *testing.T) {
	h := newEngine(t)
	req := h.request("sh", "-c", "(sleep 300; echo no) & sleep 300")
	req.Timeout = 200 * time.Millisecond
	out, _, status := h.run(req)
	if want := (command.Status{Code: -1, Signal: "SIGKILL", TimedOut: true}); status != want || out != "" {
		t.Errorf("got %q, %+v; want %+v", out, status, want)
	}
	h.Wait() // the pipes are at EOF: nobody is left
}

func TestSignalReachesTree(t *testing.T) {
	h := newEngine(t)
	// The child tells when its trap is set: a signal between fork and exec would
	// meet the parent's trap.
	const child = `trap "echo child; exit 0" TERM; echo up; while :; do sleep 0.01; done`
	c := h.start(h.request("sh", "-c", `trap 'wait; echo parent; exit 3' TERM; sh -c "$0" & wait`, child))
	if got := string(readN(t, c.Stdout(), 3)); got != "up\n" {
		t.Fatalf("read %q", got)
	}
	requireNoError(t, c.Signal(unix.SIGTERM))
	if status := h.ended(c); status.Code != 3 {
		t.Errorf("got %+v, want code 3", status)
	}
	if got := read(c.Stdout()); got != "up\nchild\nparent\n" {
		t.Errorf("output %q", got)
	}
	requireCode(t, c.Signal(unix.SIGTERM), guestproto.CodeExecEnded)
}

func TestBackgroundProcessLivesOn(t *testing.T) {
	h := newEngine(t)
	begin := time.Now()
	out, _, status := h.run(h.request("sh", "-c", "sleep 300 & echo $!"))
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("the end took %v", took)
	}
	if status.Code != 0 {
		t.Errorf("status %+v", status)
	}
	var pid int
	if _, err := fmt.Sscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Errorf("background process is gone: %v", err)
	}
}

func TestEndlessBackgroundOutputDoesNotHoldTheEnd(t *testing.T) {
	h := newEngine(t)
	out, _, status := h.run(h.request("sh", "-c", "yes & echo $! >&2; exit 5"))
	if status.Code != 5 || len(out) == 0 {
		t.Errorf("status %+v, %d bytes", status, len(out))
	}
	c, err := h.Get(t.Context(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(read(c.Stderr()), &pid); err != nil {
		t.Fatal(err)
	}
	requireNoError(t, unix.Kill(pid, unix.SIGKILL))
}

func TestLargeOutputIsWhole(t *testing.T) {
	h := newEngine(t)
	const size = 50 << 20
	out, _, status := h.run(h.request("sh", "-c", fmt.Sprintf("yes 0123456789abcde | head -c %d", size)))
	if status.Code != 0 || len(out) != size || out != strings.Repeat("0123456789abcde\n", size/16) {
		t.Errorf("status %+v, %d bytes", status, len(out))
	}
}

func TestFullMemoryDelaysOutput(t *testing.T) {
	e := command.NewEngine(command.Config{Reaper: reaper, Memory: 300 << 10}) // one large ring
	h := &harness{Engine: e, t: t}
	first := h.start(h.request("sh", "-c", "head -c 100000 /dev/zero; exec sleep 300"))
	turn := h.follow(first, func() {})
	if n := len(readN(t, first.Stdout(), 100000)); n != 100000 {
		t.Fatalf("read %d bytes", n)
	}
	second := h.start(h.request("head", "-c", "1000000", "/dev/zero"))
	if n := len(readN(t, second.Stdout(), 16<<10)); n != 16<<10 {
		t.Fatalf("read %d bytes", n)
	}
	requireNoError(t, first.Signal(unix.SIGKILL))
	h.ended(first)
	turn.Leave()
	h.Release([]string{"c1"})
	if n := len(read(second.Stdout())); n < 900000 {
		t.Errorf("second command printed %d bytes", n)
	}
	h.ended(second)
	e.Wait()
}

func readN(t *testing.T, r *guestproto.Ring, n int) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out := make([]byte, 0, n)
	rr := r.Reader(0)
	for len(out) < n {
		m, err := rr.Read(ctx, out[len(out):n])
		out = out[:len(out)+m]
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(out), err)
		}
	}
	return out
}
