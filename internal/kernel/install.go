package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Source is a kernel that can be installed.
type Source struct {
	Name    string // for the record: "package NAME=VERSION", "file PATH"
	Arch    Arch
	Image   []byte // vmlinuz or vmlinux
	Modules fs.FS  // its /lib/modules/RELEASE; nil when its drivers are built in
	Config  []byte // its build configuration, /boot/config-RELEASE; nil when unknown
}

// Install makes src the kernel that Boot uses. It is put together in a folder
// of its own, which appears by rename, and then becomes the current one;
// nothing is left when it fails. A kernel that cannot be used is errdefs.Invalid.
func (s *Store) Install(ctx context.Context, src Source) (Installed, error) {
	k, err := s.install(ctx, src)
	if err != nil {
		return Installed{}, explain("the kernel of "+src.Name, fmt.Errorf("install kernel: %w", err))
	}
	return k, nil
}

func (s *Store) install(ctx context.Context, src Source) (k Installed, err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return Installed{}, err
	}
	if err := sweep(s.dir); err != nil {
		return Installed{}, err
	}
	tmp, err := os.MkdirTemp(s.dir, tmpPrefix+"*")
	if err != nil {
		return Installed{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	k, err = assemble(ctx, tmp, src)
	if err != nil {
		return Installed{}, err
	}
	dir := filepath.Join(s.dir, k.Release+"-"+identity(k))
	if err := os.Rename(tmp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return Installed{}, err
	}
	if err := s.makeCurrent(filepath.Base(dir), tmp+".link"); err != nil {
		return Installed{}, err
	}
	if err := keepNewest(s.dir, "[0-9]*-*", keepKernels, filepath.Base(dir)); err != nil {
		return Installed{}, err
	}
	return s.Installed()
}

// explain gives an error about what its kind and code.
func explain(what string, err error) error {
	_, known := errors.AsType[*errdefs.Error](err)
	path, isPath := errors.AsType[*fs.PathError](err)
	switch {
	case known, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, unix.ENOSPC):
		return errdefs.Wrap(err, errdefs.Exhausted, "DISK_FULL", "no disk space for %s", what)
	case isPath:
		return errdefs.Wrap(err, errdefs.Runtime, "KERNEL_IO", "cannot read or write the files of %s: %s: %v", what, path.Op, path.Err)
	default:
		return errdefs.Wrap(err, errdefs.Invalid, "KERNEL_INVALID", "%s cannot be used: %v", what, err)
	}
}

// maxConfig bounds a build configuration; Debian's has 250 KiB at most.
const maxConfig = 4 << 20

// assemble fills dir with all that belongs to a kernel.
func assemble(ctx context.Context, dir string, src Source) (Installed, error) {
	if err := os.Chmod(dir, 0o755); err != nil {
		return Installed{}, err
	}
	k := Installed{Format: recordFormat, Arch: src.Arch, Source: src.Name, InstalledAt: time.Now().UTC()}
	if err := unpackTo(filepath.Join(dir, kernelFile), src, &k); err != nil {
		return Installed{}, err
	}
	if err := ctx.Err(); err != nil {
		return Installed{}, err
	}
	if err := addModules(filepath.Join(dir, modulesDir), src, &k); err != nil {
		return Installed{}, err
	}
	record, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return Installed{}, err
	}
	return k, writeBytes(filepath.Join(dir, recordFile), append(record, '\n'))
}

// unpackTo writes and verifies the kernel, and notes what it is.
func unpackTo(name string, src Source, k *Installed) error {
	sum := sha256.New()
	err := writeFile(name, 0o644, func(w io.Writer) error {
		return Unpack(io.MultiWriter(w, sum), src.Image, src.Arch)
	})
	if err != nil {
		return err
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	k.Release, err = Verify(f, info.Size(), src.Arch)
	k.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return err
}

// addModules writes the modules that guests need, if the kernel has modules.
func addModules(dir string, src Source, k *Installed) error {
	if src.Modules == nil {
		return nil
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	sum := sha256.New()
	modules, err := SelectModules(src.Modules, k.Release)
	if err != nil {
		return err
	}
	if k.Modules, k.Later, err = writeModules(dir, modules, src.Config, sum); err != nil {
		return err
	}
	if modules, err = SelectSmallModules(src.Modules, k.Release); err != nil {
		return err
	}
	if k.SmallModules, k.SmallLater, err = writeModules(dir, modules, src.Config, sum); err != nil {
		return err
	}
	k.ModulesSHA256 = hex.EncodeToString(sum.Sum(nil))
	return nil
}

// writeModules writes modules by their names and adds to sum what they are. One
// that is there already is the same.
func writeModules(dir string, modules []Module, config []byte, sum io.Writer) (files []string, later int, err error) {
	for _, m := range modules {
		if takesUnsigned(config) {
			m.Data = dropBTF(unsign(m.Data))
		}
		name := filepath.Join(dir, m.File)
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			if err := writeBytes(name, m.Data); err != nil {
				return nil, 0, err
			}
		}
		files = append(files, m.File)
		if m.Later {
			later++
		}
		if _, err := fmt.Fprintf(sum, "%s %t %d\n%s", m.File, m.Later, len(m.Data), m.Data); err != nil {
			return nil, 0, err
		}
	}
	return files, later, nil
}

func writeBytes(name string, b []byte) error {
	return writeFile(name, 0o644, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// identity tells kernels of one release apart.
func identity(k Installed) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n%s\n", k.SHA256, k.ModulesSHA256, k.Source)
	return hex.EncodeToString(h.Sum(nil))[:12]
}

// makeCurrent switches the link in one step, by way of the unused name tmp.
func (s *Store) makeCurrent(name, tmp string) error {
	if err := os.Symlink(name, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(s.dir, currentLink)); err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(tmp)))
	}
	return nil
}
