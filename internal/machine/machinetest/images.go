package machinetest

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

type images struct{ d *Daemon }

// Normalize accepts what has no upper-case letter and no blank.
func (images) Normalize(ref string) (string, error) {
	if ref == "" || strings.ToLower(ref) != ref || strings.ContainsAny(ref, " \t") {
		return "", errdefs.New(errdefs.Invalid, "INVALID_IMAGE_REF", "%q is no image reference", ref)
	}
	return "registry.test/" + ref, nil
}

func (v images) Resolve(_ context.Context, req machine.ImageRequest) (*machine.ImageLease, error) {
	return v.lease("images.Resolve", func(h *Host) (image, error) {
		img, ok := h.images[req.Ref]
		if !ok {
			return image{}, errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %s not found", req.Ref)
		}
		if img.login != nil && (req.Auth == nil || *req.Auth != *img.login) {
			return image{}, errdefs.New(errdefs.Unauthorized, "REGISTRY_UNAUTHORIZED", "registry refuses the login for %s", req.Ref)
		}
		h.cached[img.Digest] = true
		return img, nil
	})
}

func (v images) Open(_ context.Context, digest string) (*machine.ImageLease, error) {
	return v.lease("images.Open", func(h *Host) (image, error) {
		for _, img := range h.images {
			if img.Digest == digest && h.cached[digest] {
				return img, nil
			}
		}
		return image{}, errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %s is gone", digest)
	})
}

func (v images) lease(op string, find func(*Host) (image, error)) (*machine.ImageLease, error) {
	var lease *machine.ImageLease
	err := v.d.call(op, func() error {
		// A crash that another call brings meanwhile forgets the leases: none may
		// come after it.
		v.d.mu.Lock()
		defer v.d.mu.Unlock()
		if v.d.crashed {
			return ErrCrashed
		}
		h := v.d.host
		h.mu.Lock()
		defer h.mu.Unlock()
		img, err := find(h)
		if err != nil {
			return err
		}
		h.leases++
		var once sync.Once
		lease = &machine.ImageLease{Image: img.Image, Release: func() { once.Do(v.d.released) }}
		return nil
	})
	if err != nil {
		if lease != nil {
			lease.Release()
		}
		return nil, err
	}
	return lease, nil
}

func (d *Daemon) released() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.crashed {
		return
	}
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.host.leases--
}

type disks struct{ d *Daemon }

// Create writes a short file: that it is there is all that matters.
func (v disks) Create(_ context.Context, path string, sizeBytes int64) error {
	made := false
	err := v.d.call("disks.Create", func() error {
		if _, err := os.Stat(path); err == nil {
			v.d.host.mu.Lock()
			defer v.d.host.mu.Unlock()
			return v.d.host.violation("disk %s is there already", path)
		}
		made = true
		return os.WriteFile(path, []byte("ext4"), 0o600)
	})
	if err != nil && made {
		return errors.Join(err, os.RemoveAll(path)) // it leaves no file when it fails
	}
	return err
}

type kernels struct{ d *Daemon }

func (v kernels) Boot(_ context.Context, path string) (machine.BootFiles, error) {
	files := machine.BootFiles{KernelPath: "/boot/vmlinux", InitrdPath: "/boot/initrd"}
	if path != "" {
		files.KernelPath = path
	}
	return files, v.d.call("kernels.Boot", func() error { return nil })
}
