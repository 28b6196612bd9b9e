package agent_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func TestExecStormLosesNoExitCode(t *testing.T) {
	p := newPair(t)
	const n, parallel = 2000, 64
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, _, status, err := p.run(machine.ExecRequest{Argv: []string{"sh", "-c", fmt.Sprintf("exit %d", i%256)}})
			if err != nil || status.Code != i%256 {
				t.Errorf("exit %d came as %+v, %v", i%256, status, err)
			}
		})
	}
	wg.Wait()
}

func TestArgvArrivesByteExact(t *testing.T) {
	p := newPair(t)
	args := []string{"a; id -u", "$(id)", "'\"\\", "\x1b[1m\r\n\x01\x7f", "\xff\xfe\x80", "", "ünï"}
	out, status := p.mustRun(append([]string{"printf", `%s\0`}, args...)...)
	if want := strings.Join(args, "\x00") + "\x00"; out != want || status.Code != 0 {
		t.Errorf("got %q, %+v; want %q", out, status, want)
	}
	if _, status := p.mustRun("sh", "-c", "exit 7"); status.Code != 7 {
		t.Errorf("exit 7 came as %+v", status)
	}
	if out, _ := p.mustRun("sh", "-c", "echo $GREETING"); out != "hello\n" {
		t.Errorf("environment: %q", out)
	}
}

func TestFiftyMegabytesArriveWhole(t *testing.T) {
	p := newPair(t)
	const size = 50 << 20
	out, status := p.mustRun("sh", "-c", fmt.Sprintf("yes 0123456789abcde | head -c %d", size))
	if status.Code != 0 || out != strings.Repeat("0123456789abcde\n", size/16) {
		t.Errorf("%+v, %d bytes", status, len(out))
	}
}

func TestTimeoutKillsTheTree(t *testing.T) {
	p := newPair(t)
	_, _, status, err := p.run(machine.ExecRequest{
		Argv: []string{"sh", "-c", "sleep 300 & sleep 300"}, Timeout: 200 * time.Millisecond,
	})
	if want := (machine.ExitStatus{Code: -1, Signal: "SIGKILL", TimedOut: true}); err != nil || status != want {
		t.Errorf("got %+v, %v; want %+v", status, err, want)
	}
	p.engine.Wait() // nobody holds the output any more
}

func TestSignalAndStdin(t *testing.T) {
	p := newPair(t)
	cat := p.exec(machine.ExecRequest{Argv: []string{"cat"}, Stdin: true})
	defer cat.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := io.Copy(cat.Stdin(), bytes.NewReader(make([]byte, 1<<20)))
		if err := errors.Join(err, cat.Stdin().Close()); err != nil {
			t.Error(err)
		}
	})
	wg.Go(func() { _, _ = io.Copy(io.Discard, cat.Stderr()) })
	if n, err := io.Copy(io.Discard, cat.Stdout()); n != 1<<20 || err != nil {
		t.Errorf("cat gave %d bytes, %v", n, err)
	}
	wg.Wait()
	if status, err := cat.Wait(p.ctx()); err != nil || status.Code != 0 {
		t.Errorf("cat: %+v, %v", status, err)
	}

	sleep := p.exec(machine.ExecRequest{Argv: []string{"sleep", "300"}})
	defer sleep.Close()
	if err := sleep.Signal(p.ctx(), int(unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _, _ = io.Copy(io.Discard, sleep.Stderr()) })
	_, _ = io.Copy(io.Discard, sleep.Stdout())
	wg.Wait()
	if status, err := sleep.Wait(p.ctx()); err != nil || status.Signal != "SIGTERM" || status.Code != -1 {
		t.Errorf("sleep: %+v, %v", status, err)
	}
}

func TestCommandSurvivesSessionBreaks(t *testing.T) {
	p := newPair(t)
	const lines = 200000
	proc := p.exec(machine.ExecRequest{Argv: []string{"sh", "-c", fmt.Sprintf("seq %d; exit 9", lines)}})
	defer proc.Close()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, proc.Stderr()) })
	var got bytes.Buffer
	buf := make([]byte, 8<<10)
	for i := 0; ; i++ {
		n, err := proc.Stdout().Read(buf)
		got.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%40 == 20 && i < 400 {
			p.breakSession()
		}
	}
	wg.Wait()
	var want bytes.Buffer
	for i := range lines {
		fmt.Fprintln(&want, i+1)
	}
	if !bytes.Equal(got.Bytes(), want.Bytes()) {
		t.Errorf("got %d bytes, want %d", got.Len(), want.Len())
	}
	if status, err := proc.Wait(p.ctx()); err != nil || status.Code != 9 {
		t.Errorf("status %+v, %v", status, err)
	}
}

func TestExitCodeIsKeptForAttach(t *testing.T) {
	p := newPair(t)
	proc := p.exec(machine.ExecRequest{ID: "kept", Argv: []string{"sh", "-c", "echo out; exit 4"}})
	if err := proc.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := p.Attach(p.ctx(), "kept", machine.Offsets{})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, again.Stderr()) })
	out, err := io.ReadAll(again.Stdout())
	wg.Wait()
	if status, werr := again.Wait(p.ctx()); err != nil || werr != nil || status.Code != 4 || string(out) != "out\n" {
		t.Errorf("%q, %+v, %v, %v", out, status, err, werr)
	}
	if _, err := p.Attach(p.ctx(), "unknown", machine.Offsets{}); !errdefs.Is(err, errdefs.NotFound) {
		t.Errorf("attach to unknown: %v", err)
	}
}

func TestExecErrors(t *testing.T) {
	p := newPair(t)
	for code, req := range map[string]machine.ExecRequest{
		guestproto.CodeNoUser:    {Argv: []string{"true"}, User: "no-such-user"},
		guestproto.CodeNoWorkDir: {Argv: []string{"true"}, WorkDir: "/no/such"},
	} {
		_, _, _, err := p.run(req)
		if errdefs.CodeOf(err) != code {
			t.Errorf("got %v (%s), want %s", err, errdefs.CodeOf(err), code)
		}
	}
	if _, status := p.mustRun("no-such-program"); status.Code != 127 {
		t.Errorf("missing program: %+v", status)
	}
}
