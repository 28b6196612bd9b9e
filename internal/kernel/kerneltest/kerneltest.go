// Package kerneltest gives tests and benchmarks a guest kernel and an initramfs
// to boot, cheaply: the kernel is set up once per user, in a folder outside the
// tree, and inits are built from this module when their sources changed. VMMs
// are not here. Only tests and benchmarks import it. It is safe for concurrent
// use, also by several test processes.
package kerneltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// The inits that an initramfs is made with.
const (
	AgentInit = "github.com/hyperfleet/hyperfleet/cmd/hyperfleet-init"
	FloorInit = "github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest/floorinit"
)

// Boot returns the kernel and the initramfs with hyperfleet-init.
func Boot(tb testing.TB) machine.BootFiles {
	tb.Helper()
	return must(tb, agent)
}

// FloorBoot returns the same kernel, and the same initramfs with FloorInit: the
// least that a boot can take.
func FloorBoot(tb testing.TB) machine.BootFiles {
	tb.Helper()
	return must(tb, floor)
}

func must(tb testing.TB, boot func() (machine.BootFiles, error)) machine.BootFiles {
	tb.Helper()
	files, err := boot()
	if err != nil {
		tb.Fatalf("get boot files: %v", err)
	}
	return files
}

// Each init is built once per process. No test's context bounds it: the result
// is for all of them.
var (
	agent = sync.OnceValues(func() (machine.BootFiles, error) { return Make(context.Background(), AgentInit) })
	floor = sync.OnceValues(func() (machine.BootFiles, error) { return Make(context.Background(), FloorInit) })
)

// CacheDir returns the folder that outlives test runs: $HYPERFLEET_TEST_CACHE,
// or hyperfleet-test in the user's cache folder.
func CacheDir() (string, error) {
	if dir := os.Getenv("HYPERFLEET_TEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache folder: set HYPERFLEET_TEST_CACHE: %w", err)
	}
	return filepath.Join(dir, "hyperfleet-test"), nil
}

// Make builds the init of a package path of this module, sets up a kernel when
// there is none yet, and returns them as files that stay.
func Make(ctx context.Context, initPackage string) (_ machine.BootFiles, err error) {
	dir, err := CacheDir()
	if err != nil {
		return machine.BootFiles{}, err
	}
	unlock, err := lock(dir)
	if err != nil {
		return machine.BootFiles{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	init := filepath.Join(dir, filepath.Base(initPackage))
	if err := build(ctx, initPackage, init); err != nil {
		return machine.BootFiles{}, err
	}
	store := kernel.NewStore(filepath.Join(dir, "kernel"), init)
	if _, err := store.Setup(ctx, kernel.SetupOptions{}); err != nil {
		return machine.BootFiles{}, fmt.Errorf("set up test kernel: %w", err)
	}
	return store.Boot(ctx, "")
}

// lock makes dir and keeps other processes out of it.
func lock(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make test cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock test cache: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock test cache: %w", err), f.Close())
	}
	return f.Close, nil
}

// build builds as `make build` does. The go command's own cache makes it cheap
// when nothing changed.
func build(ctx context.Context, pkg, out string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, stderr.Bytes())
	}
	return nil
}
