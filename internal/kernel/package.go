package kernel

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
)

// cloudKernel are Debian's meta packages of the kernel for virtual machines:
// small, with every virtio driver. They depend on the newest real one.
var cloudKernel = map[Arch]string{
	AMD64: "linux-image-cloud-amd64",
	ARM64: "linux-image-cloud-arm64",
}

// giveKernel is how to go on without apt.
const giveKernel = "; or give a kernel: hyperfleet setup --kernel /boot/vmlinuz-RELEASE --modules /lib/modules/RELEASE"

// find resolves the meta package to the package that holds the kernel.
func (t *setup) find(ctx context.Context) (string, error) {
	meta, err := t.opts.Apt.Find(ctx, cloudKernel[t.opts.Arch])
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.KindOf(err), errdefs.CodeOf(err), "%s%s", errdefs.Public(err), giveKernel)
	}
	for _, name := range meta.Depends {
		if !strings.HasPrefix(name, "linux-image-") {
			continue
		}
		t.pkg, err = t.opts.Apt.Show(ctx, name)
		return t.pkg.String(), err
	}
	return "", errdefs.New(errdefs.NotFound, "PACKAGE_NOT_FOUND", "%s names no kernel package%s", meta, giveKernel)
}

// download fetches the package beside the store, on the disk that has room for it.
func (t *setup) download(ctx context.Context) (string, error) {
	if err := os.MkdirAll(t.store.dir, 0o755); err != nil {
		return "", explain("the kernel of package "+t.pkg.String(), fmt.Errorf("make kernel folder: %w", err))
	}
	tmp, err := os.MkdirTemp(t.store.dir, ".tmp-*")
	if err != nil {
		return "", explain("the kernel of package "+t.pkg.String(), fmt.Errorf("make download folder: %w", err))
	}
	t.tmp = tmp
	t.deb, err = t.opts.Apt.Download(ctx, t.pkg, tmp)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(t.deb)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d bytes, sha256 as in apt's index", info.Size()), nil
}

// unpack takes the kernel and the modules out of the package.
func (t *setup) unpack(ctx context.Context) (string, error) {
	u, err := t.unpackPackage(ctx)
	if err != nil {
		return "", explain("the kernel of package "+t.pkg.String(), err)
	}
	tree, err := fs.Sub(os.DirFS(t.tmp), path.Join("modules", u.release))
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", t.pkg, err)
	}
	t.source = Source{Name: "package " + t.pkg.String(), Arch: t.opts.Arch, Image: u.image, Modules: tree, Config: u.config}
	return fmt.Sprintf("%d modules to choose from", u.modules), nil
}

func (t *setup) unpackPackage(ctx context.Context) (_ *unpacker, err error) {
	f, err := os.Open(t.deb)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	root, err := os.OpenRoot(t.tmp)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	u := &unpacker{root: root}
	err = debian.Walk(f, func(name string, h *tar.Header, body io.Reader) error {
		return errors.Join(ctx.Err(), u.visit(name, h, body))
	})
	if err != nil {
		return nil, err
	}
	if u.image == nil || u.release == "" {
		return nil, errors.New("no kernel with modules in the package")
	}
	return u, nil
}

// unpacker keeps what is wanted of a kernel package: boot/vmlinuz-RELEASE and
// boot/config-RELEASE in memory, lib/modules/RELEASE as modules/RELEASE under root.
type unpacker struct {
	root    *os.Root
	image   []byte
	config  []byte
	release string
	modules int
}

func (u *unpacker) visit(name string, h *tar.Header, body io.Reader) error {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		image, err := readBounded(body, maxPacked)
		u.image = image
		return err
	}
	if strings.HasPrefix(name, "boot/config-") {
		config, err := readBounded(body, maxConfig)
		u.config = config
		return err
	}
	// Newer packages have everything under usr.
	tree, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	if !ok {
		return nil
	}
	if _, ok := moduleName(tree); !ok && path.Base(tree) != "modules.builtin" {
		return nil
	}
	u.release, _, _ = strings.Cut(tree, "/")
	u.modules++
	return u.save(path.Join("modules", tree), body)
}

func (u *unpacker) save(name string, body io.Reader) error {
	if err := u.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}
