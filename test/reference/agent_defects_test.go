//go:build vm

package reference

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// A timeout is in seconds, from the API down to the guest.
func TestDefect02TimeoutIsInSeconds(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("slow", image)
	got := w.post("/machines/"+m.ID+"/exec", `{"command":["sh","-c","sleep 3; echo done"],"timeout":30}`).want(200).result()
	if got.ExitCode != 0 || got.Stdout != "done\n" {
		t.Errorf("a command of three seconds with a timeout of thirty: %+v", got)
	}
}

// An argv is run as it is: PATH is searched, and no shell sees it.
func TestDefect03ArgvIsNoShellCode(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("argv", image)
	if got := w.exec(m.ID, "sh", "-c", "exit 7"); got.ExitCode != 7 {
		t.Errorf("exit 7: %+v", got)
	}
	if got := w.exec(m.ID, "echo", "a; id -u"); got.Stdout != "a; id -u\n" {
		t.Errorf("echo: %+v", got)
	}
	if got := w.exec(m.ID, "echo a"); got.ExitCode != 127 {
		t.Errorf("a program whose name has a space: %+v", got)
	}
	long := strings.Repeat("x", 100_000)
	if got := w.exec(m.ID, "printf", "%s", long); got.Stdout != long {
		t.Errorf("an argument of %d bytes arrives as %d", len(long), len(got.Stdout))
	}
}

func TestDefect04NoExitCodeIsLost(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := newWire(t, h, "").running("exits", image)
	const atOnce, rounds = 30, 10
	for range rounds {
		var wg sync.WaitGroup
		for range atOnce {
			wg.Go(func() {
				res, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"sh", "-c", "exit 3"}, Timeout: 60})
				if err != nil || res.ExitCode != 3 {
					t.Errorf("exit 3: %+v, %v", res, err)
				}
			})
		}
		wg.Wait()
	}
}

// Control characters in the output and empty files harm nothing.
func TestDefect25ControlCharactersAndEmptyFiles(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("control", image)
	got := w.exec(m.ID, "sh", "-c", `head -c 1000000 /dev/zero | tr '\0' '\1'`)
	if want := strings.Repeat("\x01", 1_000_000); got.Stdout != want {
		t.Errorf("%d bytes of output arrive as %d", len(want), len(got.Stdout))
	}
	path := "/machines/" + m.ID + "/files"
	w.post(path, `{"path":"/root/empty","content":""}`).want(200)
	if got := w.get(path + "?path=/root/empty").want(200).object(); got["content"] != "" || got["size"] != float64(0) {
		t.Errorf("an empty file: %v", got)
	}
}

// Every byte of output, argument, name and file arrives as it is.
func TestDefect26BytesArriveExact(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("bytes", image)
	path := "/machines/" + m.ID
	if got := w.exec(m.ID, "printf", `a\0b`); got.Stdout != "a\x00b" {
		t.Errorf("output with a NUL: %q", got.Stdout)
	}
	got := w.post(path+"/exec", `{"command":["printf","\\377\\376"],"encoding":"base64"}`).want(200).result()
	if raw, _ := base64.StdEncoding.DecodeString(got.Stdout); string(raw) != "\xff\xfe" {
		t.Errorf("output that is no UTF-8: %q", raw)
	}
	if got := w.exec(m.ID, "printf", "%s", "a\x1b[1m\rb timeout \"timeout\":1"); got.Stdout != "a\x1b[1m\rb timeout \"timeout\":1" {
		t.Errorf("an argument with control characters: %q", got.Stdout)
	}
	w.post(path+"/files", jsonOf(map[string]string{"path": `/root/a "quoted" name`, "content": base64Of("x")})).want(200)
	if got := w.get(path + "/files/stat?path=/root/a%20%22quoted%22%20name").want(200).object(); got["path"] != `/root/a "quoted" name` {
		t.Errorf("stat of a quoted name: %v", got)
	}
	if got := w.get(path + "/files?path=/proc/version").want(200).object(); got["size"] == float64(0) || got["content"] == "" {
		t.Errorf("/proc/version is read as empty: %v", got)
	}
}

// An upload is whole or not at all: while children end all the time, and when
// the disk is full.
func TestDefect27UploadsAreWholeOrNotAtAll(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("uploads", image)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				_, _ = h.Exec(ctx, m.ID, hyperfleet.ExecRequest{Command: []string{"true"}}) // cut off by the end of the loop
			}
		})
	}
	content := strings.Repeat("0123456789abcdef", 8<<20/16)
	for i := range 5 {
		name := fmt.Sprintf("/root/upload%d", i)
		if n, err := h.WriteFile(t.Context(), m.ID, name, 0o644, strings.NewReader(content)); err != nil || n != int64(len(content)) {
			t.Errorf("upload %d: %d bytes, %v", i, n, err)
		}
		if got := w.exec(m.ID, "wc", "-c", name); !strings.HasPrefix(strings.TrimSpace(got.Stdout), fmt.Sprint(len(content))) {
			t.Errorf("upload %d arrived as %q", i, got.Stdout)
		}
	}
	stop()
	wg.Wait()

	w.exec(m.ID, "sh", "-c", "mkdir /small && mount -t tmpfs -o size=1m none /small && echo old >/small/f")
	_, err := h.WriteFile(t.Context(), m.ID, "/small/f", 0o644, strings.NewReader(content))
	if !errors.Is(err, hyperfleet.ErrExhausted) {
		t.Errorf("upload to a full disk: %v, want ErrExhausted", err)
	}
	if got := w.exec(m.ID, "sh", "-c", "cat /small/f; ls -A /small"); got.Stdout != "old\nf\n" {
		t.Errorf("after an upload to a full disk: %q", got.Stdout)
	}
}

// The docs' own machine of 128 MiB runs commands and takes files, many at once.
func TestDefect28SmallGuestsServe(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("small", image)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			content := strings.Repeat("x", 8<<20)
			if _, err := h.WriteFile(t.Context(), m.ID, fmt.Sprintf("/root/f%d", i), 0o644, strings.NewReader(content)); err != nil {
				t.Errorf("file %d: %v", i, err)
			}
			res, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"sh", "-c", "yes | head -c 4000000"}, Timeout: 60})
			if err != nil || len(res.Stdout) != 4_000_000 {
				t.Errorf("command %d: %d bytes, %v", i, len(res.Stdout), err)
			}
		})
	}
	wg.Wait()
}

// A timeout and a client that leaves end the whole tree; a command inherits
// nothing of init's and finds what programs expect.
func TestDefect29CommandsAreContained(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("contained", image)
	path := "/machines/" + m.ID + "/exec"
	noSleeper := func() {
		t.Helper()
		hosttest.Await(t, 10*time.Second, "nothing of the command is left", func() error {
			if got := w.exec(m.ID, "sh", "-c", "ps -o args | grep '^sleep 47' || true"); got.Stdout != "" {
				return errors.New(got.Stdout)
			}
			return nil
		})
	}
	w.post(path, `{"command":["sh","-c","setsid sleep 4711 & sleep 4712"],"timeout":1}`).want(504)
	noSleeper()

	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+path, strings.NewReader(`{"command":["sh","-c","touch /root/begun; sleep 4713"],"timeout":600}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.key)
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			resp.Body.Close()
			t.Error("a command of ten minutes was answered")
		}
	}()
	hosttest.Await(t, 20*time.Second, "the command has begun", func() error {
		if got := w.exec(m.ID, "test", "-e", "/root/begun"); got.ExitCode != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	leave()
	<-left
	noSleeper()

	for what, c := range map[string]struct{ script, want string }{
		"ignored signals":  {`grep -E '^Sig(Ign|Blk)' /proc/self/status | cut -f2 | sort -u`, "0000000000000000\n"},
		"open files":       {`ls /proc/self/fd | wc -w`, "4\n"}, // 0, 1, 2 and the one that ls opens
		"/dev/shm":         {`test -d /dev/shm && test -w /dev/shm && echo yes`, "yes\n"},
		"control groups":   {`test -e /sys/fs/cgroup/cgroup.controllers && echo yes`, "yes\n"},
		"the clock":        {fmt.Sprintf(`test "$(date +%%s)" -gt %d && echo yes`, time.Now().Add(-time.Hour).Unix()), "yes\n"},
		"PATH and HOME":    {`test -n "$PATH" && echo "$HOME"`, "/root\n"},
		"controlling tty":  {`test -t 0 || echo no`, "no\n"},
		"own session":      {`test "$(cut -d' ' -f6 /proc/self/stat)" != 1 && echo yes`, "yes\n"},
		"standard streams": {`readlink /proc/self/fd/0`, "/dev/null\n"},
	} {
		if got := w.exec(m.ID, "sh", "-c", c.script); got.Stdout != c.want {
			t.Errorf("%s: %q, want %q (%s)", what, got.Stdout, c.want, got.Stderr)
		}
	}
	got := w.post(path, `{"command":["sh","-c","echo $A $PWD $(id -u); cat"],"env":{"A":"b"},"work_dir":"/tmp","user":"65534","stdin":"in"}`).want(200).result()
	if got.Stdout != "b /tmp 65534\nin" {
		t.Errorf("environment, folder, user and input: %+v", got)
	}
}

// A command whose session or daemon breaks in the middle runs once.
func TestDefect30CommandsRunOnce(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("once", image)
	started := make(chan error, 1)
	go func() {
		_, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"sh", "-c", "echo run >>/root/runs; sleep 2"}, Timeout: 60})
		started <- err
	}()
	hosttest.Await(t, 20*time.Second, "the command has begun", func() error {
		if got := w.exec(m.ID, "test", "-e", "/root/runs"); got.ExitCode != 0 {
			return errors.New("not yet")
		}
		return nil
	})
	h.KillDaemon()
	h.StartDaemon()
	if err := <-started; err == nil {
		t.Error("a buffered command whose daemon died has an answer")
	}
	if got := w.exec(m.ID, "cat", "/root/runs"); got.Stdout != "run\n" {
		t.Errorf("the command ran as often as this has lines: %q", got.Stdout)
	}
}
