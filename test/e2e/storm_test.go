//go:build vm

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// A thousand requests of all kinds at once, a third of which their callers
// leave in the middle: afterwards every machine is in the state that its VMM
// says, and the daemon holds what it held before.
func TestThousandRequestsAtOnce(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	machines := []hyperfleet.Machine{h.Start("one", image), h.Start("two", image)}
	for _, m := range machines {
		h.Output(m, "sh", "-c", "head -c 3000000 /dev/urandom >/root/data")
	}
	h.Create("idle", image)
	storm := &storm{h: h, image: image, machines: machines}
	storm.blow(t, 100) // what is made once is made
	storm.serveAgain(t)
	before := settled(t, h)
	storm.blow(t, 1000)

	list, err := h.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	running := 0
	for _, m := range list {
		switch m.Status {
		case hyperfleet.StatusRunning, hyperfleet.StatusPaused:
			running++
		case hyperfleet.StatusPending, hyperfleet.StatusStopped:
		default:
			t.Errorf("machine %s (%s) is %s: %s", m.ID, m.Name, m.Status, deref(m.ErrorMessage))
		}
		if (m.PID != nil) != (m.Status == hyperfleet.StatusRunning || m.Status == hyperfleet.StatusPaused) {
			t.Errorf("machine %s is %s with pid %v", m.ID, m.Status, m.PID)
		}
		if strings.HasPrefix(m.Name, "storm") {
			if err := h.DeleteMachine(t.Context(), m.ID); err != nil {
				t.Errorf("delete %s: %v", m.ID, err)
			}
			if m.PID != nil {
				running--
			}
		}
	}
	if vmms := h.VMMs(); len(vmms) != running {
		t.Errorf("%d machines run, VMMs: %v", running, vmms)
	}
	storm.serveAgain(t)
	for _, m := range machines {
		hosttest.Await(t, 30*time.Second, "nothing of callers that left is in "+m.Name, func() error {
			got := h.Output(m, "sh", "-c", "ps -o args | grep '^sleep 99'; ls -A /root | grep -v -e '^data$' -e '^up'; true")
			if got != "" {
				return errors.New(got)
			}
			return nil
		})
	}
	h.CloseIdleConnections()
	hosttest.Await(t, time.Minute, "the daemon holds what it held before", func() error {
		after := settled(t, h)
		// Two for the runtime's and the pools' own; requests leak by the hundred.
		if after.goroutines > before.goroutines+2 || after.files > before.files || after.children != before.children {
			return fmt.Errorf("before %+v, now %+v", before, after)
		}
		return nil
	})
	t.Logf("answers: %s", storm)
	t.Logf("held before %+v, after %+v", before, settled(t, h))
}

// storm makes requests and counts their answers.
type storm struct {
	h        *hosttest.Host
	image    string
	machines []hyperfleet.Machine

	mu                  sync.Mutex
	good, refused, left int
}

func (s *storm) String() string {
	return fmt.Sprintf("%d good, %d refused, %d left by their callers", s.good, s.refused, s.left)
}

// blow makes n requests at once and waits for their ends.
func (s *storm) blow(t *testing.T, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { s.request(t, i) })
	}
	wg.Wait()
	s.h.CloseIdleConnections()
}

// serveAgain brings machines that were paused back to work.
func (s *storm) serveAgain(t *testing.T) {
	t.Helper()
	for _, m := range s.machines {
		if _, err := s.h.ResumeMachine(t.Context(), m.ID); err != nil {
			t.Errorf("resume %s: %v", m.Name, err)
		}
		s.h.Output(m, "true")
	}
	s.h.CloseIdleConnections()
}

// request is the i-th of the storm. Of three callers one leaves.
func (s *storm) request(t *testing.T, i int) {
	ctx := t.Context()
	if i%3 == 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.Int64N(int64(2*time.Second))))
		defer cancel()
	}
	err := s.kinds()[i%len(s.kinds())](ctx, s.machines[i%2].ID, i)
	s.mu.Lock()
	defer s.mu.Unlock()
	e, refused := errors.AsType[*hyperfleet.Error](err)
	switch {
	case err == nil:
		s.good++
	case ctx.Err() != nil:
		s.left++
	case refused && e.Status != 500:
		s.refused++ // a busy or paused machine says so
	case errors.Is(err, io.ErrUnexpectedEOF) && i%2 == 1:
		s.refused++ // a transfer of a machine that is paused for long is cut
	default:
		t.Errorf("request %d: %v", i, err)
	}
}

func (s *storm) kinds() []func(ctx context.Context, id string, i int) error {
	h := s.h
	exec := func(argv ...string) func(context.Context, string, int) error {
		return func(ctx context.Context, id string, _ int) error {
			_, err := h.Exec(ctx, id, hyperfleet.ExecRequest{Command: argv, Timeout: 60})
			return err
		}
	}
	return []func(context.Context, string, int) error{
		exec("true"),
		func(ctx context.Context, id string, _ int) error { _, err := h.Machine(ctx, id); return err },
		exec("sh", "-c", "sleep 99 & head -c 200000 /dev/zero; kill %1"),
		func(ctx context.Context, _ string, _ int) error {
			_, err := h.ListMachines(ctx, hyperfleet.ListOptions{Limit: 10})
			return err
		},
		func(ctx context.Context, id string, i int) error {
			_, err := h.WriteFile(ctx, id, fmt.Sprintf("/root/up%d", i%7), 0o644, pattern(1<<20))
			return err
		},
		func(ctx context.Context, id string, _ int) error {
			r, _, err := h.ReadFile(ctx, id, "/root/data")
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		},
		func(ctx context.Context, _ string, i int) error {
			m, err := h.CreateMachine(ctx, hyperfleet.CreateMachineRequest{Name: fmt.Sprint("storm", i), VCPUCount: 1, MemSizeMiB: 128, Image: s.image})
			if err != nil || i%2 == 0 {
				return err
			}
			return h.DeleteMachine(ctx, m.ID)
		},
		func(ctx context.Context, id string, _ int) error {
			_, err := h.ExecStream(ctx, id, hyperfleet.ExecRequest{Command: []string{"cat"}, AttachStdin: true, Timeout: 120},
				hyperfleet.ExecIO{Stdin: strings.NewReader(strings.Repeat("x", 50_000)), Stdout: io.Discard})
			return err
		},
		func(ctx context.Context, _ string, _ int) error { _, err := h.ListImages(ctx); return err },
		func(ctx context.Context, id string, i int) error {
			var err error
			if i%20 != 9 {
				_, err = h.WaitMachine(ctx, id, hyperfleet.StatusRunning, 5*time.Second)
				return err
			}
			// Of all who pause and resume the last one resumes, so that what
			// waits for the guest goes on; a caller that leaves does so, too.
			_, err = h.PauseMachine(ctx, id)
			_, resumed := h.ResumeMachine(context.WithoutCancel(ctx), id)
			return errors.Join(err, resumed)
		},
	}
}

// held is what a daemon holds: what grows when requests leak.
type held struct{ goroutines, files, children int }

// settled reads what the daemon holds now.
// The database's own pool of connections grows with what is asked at a time,
// and stays.
func settled(t *testing.T, h *hosttest.Host) held {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.DaemonPID()))
	if err != nil {
		t.Fatal(err)
	}
	now := held{goroutines: int(h.Metric("go_goroutines")), children: len(h.VMMs())}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && !strings.Contains(target, "hyperfleet.db") {
			now.files++
		}
	}
	return now
}
