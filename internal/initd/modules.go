package initd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules of a list, in its order, from dir. One that is
// loaded already, or that is not there since the kernel has it built in, is
// fine. A module that does not load is no reason to stop: what needs it will
// say so; the errors are returned joined.
func loadModules(list, dir string) error {
	b, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	var errs []error
	for name := range strings.FieldsSeq(string(b)) {
		err := loadModule(path.Join(dir, path.Base(name)))
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("load module %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}
