package agent_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/initd/process"
)

// reaper is the only one of this test program, as in a guest.
var reaper = process.NewReaper(nil)

func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reaper.Run(ctx) }()
	code := m.Run()
	cancel()
	if code != 0 {
		os.Exit(code) // children of failed tests may live on
	}
	if err := <-done; err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}
