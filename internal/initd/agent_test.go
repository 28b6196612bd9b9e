package initd

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/command"
)

// session serves an agent over a pipe and returns the host's end.
func session(t *testing.T, cfg AgentConfig) (*Agent, *guestproto.Conn) {
	t.Helper()
	cfg.Log = log.New(t.Output(), "", 0)
	cfg.SetClock = func(time.Time) error { return nil }
	cfg.Reboot = func() {}
	a := NewAgent(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	pipe, guest := net.Pipe()
	dialed := make(chan struct{}, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.Serve(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) { // it ends with ctx
			select {
			case dialed <- struct{}{}:
				return guest, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	}()
	host, err := guestproto.Connect(ctx, pipe, guestproto.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		host.Close()
		<-ended
	})
	return a, host
}

// call makes one request; the returned channel gets its outcome.
func call(t *testing.T, host *guestproto.Conn, method guestproto.Method, req any) <-chan error {
	t.Helper()
	s, err := host.Open(t.Context(), method, req)
	if err != nil {
		t.Fatal(err)
	}
	outcome := make(chan error, 1)
	go func() {
		defer s.Close()
		outcome <- s.Result(t.Context(), nil)
	}()
	return outcome
}

func TestShutdownWaitsForSetup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		release := make(chan struct{})
		_, host := session(t, AgentConfig{
			Setup: func(guestproto.Boot) (*command.Engine, error) {
				<-release
				order = append(order, "setup")
				return nil, nil
			},
			Shutdown: func(time.Duration) error {
				order = append(order, "shutdown")
				return nil
			},
		})
		boot := call(t, host, guestproto.MethodBoot, guestproto.Boot{})
		synctest.Wait()
		shutdown := call(t, host, guestproto.MethodShutdown, guestproto.Shutdown{})
		synctest.Wait()
		if len(order) != 0 {
			t.Errorf("%v before the set-up has ended", order)
		}
		close(release)
		if err := <-boot; err != nil {
			t.Error(err)
		}
		if err := <-shutdown; err != nil || !slices.Equal(order, []string{"setup", "shutdown"}) {
			t.Errorf("%v, %v", order, err)
		}
	})
}

func TestNoSetupAfterShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, host := session(t, AgentConfig{
			Setup: func(guestproto.Boot) (*command.Engine, error) {
				t.Error("set up")
				return nil, nil
			},
			Shutdown: func(time.Duration) error { return nil },
		})
		a.Stop(0)
		err := <-call(t, host, guestproto.MethodBoot, guestproto.Boot{})
		if e, ok := errors.AsType[*guestproto.Error](err); !ok || e.Code != guestproto.CodeNotReady || e.Kind != guestproto.KindUnavailable {
			t.Errorf("boot: %v", err)
		}
	})
}
