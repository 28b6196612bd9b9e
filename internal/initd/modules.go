package initd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// modules are the kernel modules of the initramfs, in load order: those that
// the root and the agent's serial port need, and those for later. The latter are
// opened at once, as the initramfs is gone then.
type modules struct {
	now []string // file names

	mu    sync.Mutex
	later []*os.File
}

// openModules reads a list, one file name per line; an empty line comes before
// those for later. One that is not there is built into the kernel.
func openModules(list, dir string) (*modules, error) {
	b, err := os.ReadFile(list)
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	m := &modules{}
	now, later, _ := strings.Cut(string(b), "\n\n")
	for name := range strings.FieldsSeq(now) {
		m.now = append(m.now, path.Join(dir, path.Base(name)))
	}
	for name := range strings.FieldsSeq(later) {
		if f, err := os.Open(path.Join(dir, path.Base(name))); err == nil {
			m.later = append(m.later, f)
		}
	}
	return m, nil
}

// load loads what is needed at once. A module that does not load is no reason
// to stop: what needs it will say so; the errors are returned joined.
func (m *modules) load() error {
	var errs []error
	for _, name := range m.now {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = loadModule(f)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// loadUntil loads those for later, until enough says so or none is left.
func (m *modules) loadUntil(enough func() bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for len(m.later) > 0 && !enough() {
		f := m.later[0]
		m.later = m.later[1:]
		errs = append(errs, loadModule(f))
	}
	return errors.Join(errs...)
}

// loadModule loads and closes f. What is loaded already is fine.
func loadModule(f *os.File) error {
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("load module %s: %w", path.Base(f.Name()), err)
	}
	return nil
}
