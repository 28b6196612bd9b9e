package image

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// importInChild is run in a process of its own where memory is measured.
const importInChild = "HYPERFLEET_TEST_IMPORT"

// TestMain fails the tests when a goroutine is left. Where the environment
// names an image, it makes the test binary import that, and print the seconds
// and the peak memory in KiB that it took.
func TestMain(m *testing.M) {
	image := os.Getenv(importInChild)
	if image == "" {
		goleak.VerifyTestMain(m)
		return
	}
	if err := importAndReport(image); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func importAndReport(image string) error {
	dir, err := os.MkdirTemp("", "import-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := Open(Options{Dir: dir})
	if err != nil {
		return err
	}
	defer s.Close()
	start := time.Now()
	if _, err := s.ImportPath(context.Background(), image, ImportRequest{Name: "measured"}); err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	// Not getrusage(2): its figure begins with that of the parent.
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	fmt.Println(took, strings.Fields(peak)[0])
	return nil
}
