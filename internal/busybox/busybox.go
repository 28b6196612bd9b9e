// Package busybox makes a small OCI image from Debian's static BusyBox, for a
// first guest where no registry can be reached. Reading images is not here: the
// result is a layout that any tool reads. The demo is its caller. All functions
// are safe for concurrent use; nothing of the package is run.
package busybox

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
)

// maxBinary bounds a BusyBox; Debian's has 2 MiB.
const maxBinary = 32 << 20

const (
	debianPackage = "busybox-static"
	installedPath = "/bin/busybox" // where the package puts it
)

// Options says where BusyBox comes from. The zero value takes the installed one
// if it is static, and else gets Debian's package by apt, without installing it.
type Options struct {
	Binary string     // path of a static BusyBox
	Apt    debian.Apt // how the package is found
}

// WriteLayout makes an OCI image layout with one image, tagged "latest", in the
// folder dir, which must not exist or be empty. It appears whole or not at all.
func WriteLayout(ctx context.Context, dir string, opts Options) (err error) {
	binary, err := find(ctx, opts)
	if err != nil {
		return err
	}
	arch, err := staticArch(binary)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make image layout: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".tmp-*")
	if err != nil {
		return fmt.Errorf("make image layout: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := writeImage(tmp, binary, arch); err != nil {
		return fmt.Errorf("make image layout: %w", err)
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return fmt.Errorf("make image layout: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return errdefs.Wrap(err, errdefs.Conflict, "LAYOUT_EXISTS", "folder %s is not empty", dir)
	}
	return nil
}

// find returns the bytes of a static BusyBox.
func find(ctx context.Context, opts Options) ([]byte, error) {
	if opts.Binary != "" {
		b, err := readFile(opts.Binary)
		if err != nil {
			return nil, errdefs.Wrap(err, errdefs.Invalid, "BUSYBOX_NOT_FOUND", "BusyBox %s cannot be read", opts.Binary)
		}
		return b, nil
	}
	if b, err := readFile(installedPath); err == nil {
		if _, err := staticArch(b); err == nil {
			return b, nil
		}
	}
	return Download(ctx, opts.Apt)
}

// Download returns the BusyBox of Debian's package, without installing it.
func Download(ctx context.Context, apt debian.Apt) (binary []byte, err error) {
	pkg, err := apt.Find(ctx, debianPackage)
	if err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp("", "hyperfleet-busybox-*")
	if err != nil {
		return nil, fmt.Errorf("make download folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	file, err := apt.Download(ctx, pkg, tmp)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open package: %w", err)
	}
	defer f.Close()
	return fromPackage(f)
}

// fromPackage finds the binary, which newer packages have under usr.
func fromPackage(r io.Reader) ([]byte, error) {
	var binary []byte
	err := debian.Walk(r, func(name string, h *tar.Header, body io.Reader) error {
		if h.Typeflag != tar.TypeReg || name != "bin/busybox" && name != "usr/bin/busybox" {
			return nil
		}
		b, err := readBounded(body)
		binary = b
		return err
	})
	if err != nil {
		return nil, err
	}
	if binary == nil {
		return nil, errdefs.New(errdefs.NotFound, "BUSYBOX_NOT_FOUND", "package %s holds no BusyBox", debianPackage)
	}
	return binary, nil
}

// staticArch returns the machine of a static ELF program, by OCI's names.
func staticArch(b []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.Invalid, "BUSYBOX_INVALID", "BusyBox is not a program")
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", errdefs.New(errdefs.Invalid, "BUSYBOX_INVALID", "BusyBox is not static")
		}
	}
	switch f.Machine {
	case elf.EM_X86_64:
		return "amd64", nil
	case elf.EM_AARCH64:
		return "arm64", nil
	default:
		return "", errdefs.New(errdefs.Invalid, "BUSYBOX_INVALID", "BusyBox is for %s", f.Machine)
	}
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBinary+1))
	if err == nil && len(b) > maxBinary {
		err = fmt.Errorf("more than %d bytes", maxBinary)
	}
	return b, err
}
