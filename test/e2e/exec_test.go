//go:build vm

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

func TestTwoThousandExitCodes(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("exits", image, func(r *hyperfleet.CreateMachineRequest) { r.MemSizeMiB = 512 })
	const runs, atOnce = 2000, 2000
	var wg sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i := range runs {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			want := i % 256
			res, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{
				Command: []string{"sh", "-c", fmt.Sprintf("exit %d", want)}, Timeout: 300,
			})
			if err != nil {
				t.Errorf("exit %d: %v", want, err)
			} else if res.ExitCode != want {
				t.Errorf("exit %d gave %d", want, res.ExitCode)
			}
		})
	}
	wg.Wait()
}

func TestExecArguments(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("args", image)
	if res := h.Result(m, "sh", "-c", "exit 7"); res.ExitCode != 7 {
		t.Errorf("exit 7 gave %d", res.ExitCode)
	}
	if res := h.Result(m, "no-such-command"); res.ExitCode != 127 {
		t.Errorf("a missing command gave %d", res.ExitCode)
	}
	if got := h.Output(m, "echo", "a; id -u"); got != "a; id -u\n" {
		t.Errorf("an argument was taken for shell code: %q", got)
	}
	odd := "\x1b[1m\r\n\t'\"\\$(id)`id`\x01\x7f é 世 timeout"
	res, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{
		Command: []string{"printf", "%s", odd}, Encoding: "base64",
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := base64.StdEncoding.DecodeString(res.Stdout); string(got) != odd {
		t.Errorf("argument arrived as %q, want %q", got, odd)
	}
	res, err = h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{
		Command: []string{"sh", "-c", `echo "$A $PWD $(id -u):$(id -g)"`},
		Env:     map[string]string{"A": "b c"}, WorkDir: "/tmp", User: "65534:65534",
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := "b c /tmp 65534:65534\n"; res.Stdout != want {
		t.Errorf("environment, folder and user: %q, want %q (stderr %q)", res.Stdout, want, res.Stderr)
	}
}

// Fifty megabytes of output arrive whole, and the daemon does not hold them.
func TestLargeOutput(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("output", image)
	const size = 50 << 20
	script := fmt.Sprintf("yes 0123456789abcde | head -c %d", size)
	h.ResetRSS()
	before := h.DaemonRSS()
	res := h.Result(m, "sh", "-c", script)
	if want := strings.Repeat("0123456789abcde\n", size/16); res.Stdout != want {
		t.Errorf("buffered: %d bytes arrived, want %d, or other ones", len(res.Stdout), size)
	}
	grown := h.DaemonRSS() - before
	t.Logf("buffered: daemon grew by %d KiB for %d MiB of output", grown>>10, size>>20)
	if grown > 32<<20 {
		t.Errorf("buffered: daemon grew by %d MiB", grown>>20)
	}

	sum := sha256.New()
	_, err := h.ExecStream(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"sh", "-c", script}},
		hyperfleet.ExecIO{Stdout: sum})
	if err != nil {
		t.Fatal(err)
	}
	if want := sha256.Sum256([]byte(strings.Repeat("0123456789abcde\n", size/16))); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("streamed: other bytes arrived")
	}
}

func TestStreamsAreSeparate(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("streams", image)
	var stdout, stderr bytes.Buffer
	input := strings.Repeat("line of input\n", 100_000)
	res, err := h.ExecStream(t.Context(), m.ID,
		hyperfleet.ExecRequest{Command: []string{"sh", "-c", "echo begin >&2; cat; echo end >&2; exit 3"}},
		hyperfleet.ExecIO{Stdin: strings.NewReader(input), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode != 3 || stdout.String() != input || stderr.String() != "begin\nend\n" {
		t.Errorf("exit code %d, %d of %d bytes back, stderr %q", res.ExitCode, stdout.Len(), len(input), stderr.String())
	}
}

// A timeout kills what the command started, too.
func TestTimeoutKillsTree(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("timeout", image)
	_, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{
		Command: []string{"sh", "-c", "(setsid sleep 4711 &) ; sleep 4712 & trap '' TERM HUP; sleep 4713"}, Timeout: 1,
	})
	if !errors.Is(err, hyperfleet.ErrTimeout) {
		t.Errorf("err = %v, want ErrTimeout", err)
	}
	hosttest.Await(t, 10*time.Second, "no process is left", func() error {
		if ps := h.Output(m, "ps", "-o", "args"); strings.Contains(ps, "sleep 471") {
			return errors.New(ps)
		}
		return nil
	})
	if got := h.Output(m, "echo", "alive"); got != "alive\n" {
		t.Errorf("after the timeout: %q", got)
	}
}

func TestSignal(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("signal", image)
	signals := make(chan string, 1)
	started := &firstWrite{done: make(chan struct{})}
	go func() {
		<-started.done
		signals <- "TERM"
	}()
	res, err := h.ExecStream(t.Context(), m.ID,
		hyperfleet.ExecRequest{Command: []string{"sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"}},
		hyperfleet.ExecIO{Stdout: started, Signals: signals})
	if err != nil {
		t.Fatal(err)
	}
	if res.ExitCode != 42 {
		t.Errorf("exit code %d after TERM, want the trap's 42", res.ExitCode)
	}
}

// firstWrite closes done at the first write.
type firstWrite struct {
	once sync.Once
	done chan struct{}
}

func (f *firstWrite) Write(p []byte) (int, error) {
	f.once.Do(func() { close(f.done) })
	return len(p), nil
}

// pattern gives size bytes that differ from place to place.
func pattern(size int64) io.Reader { return io.LimitReader(&counter{}, size) }

type counter struct{ n uint64 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c.n ^ c.n>>8 ^ c.n>>16 ^ c.n>>24)
		c.n++
	}
	return len(p), nil
}

func sumOf(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
