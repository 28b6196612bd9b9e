package machine

import "context"

// Images turns references into read-only root filesystems. The implementation
// is package image.
type Images interface {
	// Normalize checks a reference, without asking anybody, and returns the
	// one form that all ways of writing it have; errdefs.Invalid.
	Normalize(ref string) (string, error)

	// Resolve finds what ref names now, pulls and converts it unless it is in
	// the cache, and returns it leased: it cannot be evicted before
	// Lease.Release. Concurrent calls for one image do the work once.
	Resolve(ctx context.Context, req ImageRequest) (*ImageLease, error)

	// Open leases a cached image by manifest digest; errdefs.NotFound when it
	// is gone. It does no access check: the machine has the digest already.
	Open(ctx context.Context, digest string) (*ImageLease, error)
}

// ImageRequest names an image and on whose behalf it is wanted.
type ImageRequest struct {
	Ref      string
	Auth     *RegistryAuth // nil: the host's credential files, then anonymous
	Progress func(ImageProgress)
}

// RegistryAuth is a caller's registry login. It is kept in memory only.
type RegistryAuth struct {
	Username string
	Password string
}

// String redacts the login.
func (RegistryAuth) String() string { return "[redacted]" }

// GoString redacts the login.
func (RegistryAuth) GoString() string { return "[redacted]" }

// ImageProgress is one step of a pull. Total is 0 while unknown.
type ImageProgress struct {
	Phase   string `json:"phase"` // "resolve", "pull", "convert", "done"
	Layer   string `json:"layer,omitempty"`
	Current int64  `json:"current,omitempty"` // bytes
	Total   int64  `json:"total,omitempty"`   // bytes
}

// Image is a converted image in the cache.
type Image struct {
	Ref       string // normalized reference it was last resolved by
	Digest    string // manifest digest, "sha256:..."
	BasePath  string // read-only ext4 file
	SizeBytes int64  // disk space that the base takes
	Config    ImageConfig
}

// ImageLease is an image that stays until Release, which is idempotent.
type ImageLease struct {
	Image
	Release func()
}

// ImageConfig is the part of the OCI image config that we use.
type ImageConfig struct {
	Env          []string          `json:"env,omitempty"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	User         string            `json:"user,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"` // sorted, absolute, clean
	ExposedPorts []string          `json:"exposed_ports,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	StopSignal   string            `json:"stop_signal,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
}

// Disks makes the machines' writable disks. The implementation is package ext4.
type Disks interface {
	// Create makes a sparse, empty ext4 file system with a journal at path.
	// It leaves no file when it fails.
	Create(ctx context.Context, path string, sizeBytes int64) error
}

// Kernels says what to boot guests with. The implementation is package kernel.
type Kernels interface {
	// Boot returns the guest kernel (an ELF vmlinux, or what the caller's
	// path names) and the initramfs with our init and its modules for it.
	// A path of "" means the installed one; errdefs.NotFound says how to set
	// one up.
	Boot(ctx context.Context, kernelPath string) (BootFiles, error)
}

// BootFiles are files of the host that a guest is booted with.
type BootFiles struct {
	KernelPath string
	InitrdPath string
	// SmallInitrdPath is the initramfs for guests with little memory: it is
	// compressed, and has the drivers of virtio devices on a PCI bus instead of
	// those of virtio-mmio and vsock. "" when the kernel is not known to have
	// them: such a guest then gets what all others get.
	SmallInitrdPath string
}
