package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
)

// SetupOptions says where a kernel comes from. The zero value gets the
// distribution's cloud kernel, unless a kernel is installed.
type SetupOptions struct {
	// Kernel is the path of a vmlinuz or vmlinux to install instead.
	Kernel string

	// Modules is the /lib/modules/RELEASE folder that belongs to Kernel; ""
	// means that its drivers are built in.
	Modules string

	// Arch is the guest's machine; "" means the host's.
	Arch Arch

	// Update looks for another kernel although one is installed.
	Update bool

	// DryRun reports the plan and does nothing.
	DryRun bool

	// Progress is told of each step, from the calling goroutine; nil means nobody.
	Progress func(Step)

	// Apt is how packages are found.
	Apt debian.Apt
}

// StepState is how far a step is.
type StepState string

// The states of a step.
const (
	StepPlanned StepState = "planned" // of a dry run
	StepDoing   StepState = "doing"
	StepDone    StepState = "done"
	StepFailed  StepState = "failed"
)

// Step is one step of a setup.
type Step struct {
	Name   string // what it does: "download linux-image-cloud-amd64"
	State  StepState
	Detail string // once done: what came out
}

// Setup puts a kernel into the store and returns it. With a kernel installed it
// has nothing to do, unless opts name another one. It leaves nothing behind
// when it fails. A dry run returns what is installed already, or nothing.
func (s *Store) Setup(ctx context.Context, opts SetupOptions) (_ Installed, err error) {
	if opts.Arch == "" {
		opts.Arch = Arch(runtime.GOARCH)
	}
	have, err := s.Installed()
	if err != nil && !errdefs.Is(err, errdefs.NotFound) {
		return Installed{}, err
	}
	fits := err == nil && have.Format == recordFormat && have.Arch == opts.Arch
	if fits && opts.Kernel == "" && !opts.Update {
		return have, nil
	}
	t := &setup{store: s, opts: opts}
	defer func() { err = errors.Join(err, t.close()) }()
	steps, err := t.plan()
	if err != nil {
		return Installed{}, err
	}
	for _, step := range steps {
		if err := t.run(ctx, step); err != nil {
			return Installed{}, err
		}
	}
	if opts.DryRun {
		return have, nil
	}
	return t.result, nil
}

// setup is the state of one Setup, which its steps fill.
type setup struct {
	store *Store
	opts  SetupOptions

	pkg    debian.Package // the real package behind the meta package
	tmp    string         // folder of downloaded and unpacked files
	deb    string
	source Source
	result Installed
}

// setupStep is one step: do returns what came out.
type setupStep struct {
	name string
	do   func(context.Context) (string, error)
}

// plan lists the steps.
func (t *setup) plan() ([]setupStep, error) {
	install := setupStep{"install the kernel and its modules", t.install}
	if t.opts.Kernel != "" {
		return []setupStep{{"read " + t.opts.Kernel, t.readFiles}, install}, nil
	}
	meta, ok := cloudKernel[t.opts.Arch]
	if !ok {
		return nil, errdefs.New(errdefs.Unsupported, "KERNEL_UNSUPPORTED",
			"there is no cloud kernel package for %s: give one with --kernel", t.opts.Arch)
	}
	return []setupStep{
		{"find package " + meta, t.find},
		{"download the package", t.download},
		{"unpack the package", t.unpack},
		install,
	}, nil
}

func (t *setup) run(ctx context.Context, step setupStep) error {
	report := t.opts.Progress
	if report == nil {
		report = func(Step) {}
	}
	if t.opts.DryRun {
		report(Step{Name: step.name, State: StepPlanned})
		return nil
	}
	report(Step{Name: step.name, State: StepDoing})
	detail, err := step.do(ctx)
	if err != nil {
		report(Step{Name: step.name, State: StepFailed, Detail: errdefs.Public(err)})
		return err
	}
	report(Step{Name: step.name, State: StepDone, Detail: detail})
	return nil
}

// close removes what the steps downloaded.
func (t *setup) close() error {
	if t.tmp == "" {
		return nil
	}
	return os.RemoveAll(t.tmp)
}

// readFiles takes the kernel and modules that the options name.
func (t *setup) readFiles(context.Context) (string, error) {
	image, err := readImage(t.opts.Kernel)
	if err != nil {
		return "", errdefs.Wrap(err, errdefs.Invalid, "KERNEL_IMAGE_NOT_FOUND", "kernel image %s cannot be read", t.opts.Kernel)
	}
	path, err := filepath.Abs(t.opts.Kernel)
	if err != nil {
		return "", err
	}
	t.source = Source{Name: "file " + path, Arch: t.opts.Arch, Image: image, Config: configOf(path)}
	if t.opts.Modules == "" {
		return fmt.Sprintf("%d bytes, no modules", len(image)), nil
	}
	if info, err := os.Stat(t.opts.Modules); err != nil || !info.IsDir() {
		return "", errdefs.Wrap(err, errdefs.Invalid, "MODULES_NOT_FOUND", "modules folder not found: %s", t.opts.Modules)
	}
	t.source.Modules = os.DirFS(t.opts.Modules)
	return fmt.Sprintf("%d bytes", len(image)), nil
}

// configOf returns the build configuration beside a kernel that is named as
// distributions do, /boot/vmlinuz-RELEASE and /boot/config-RELEASE, or nil.
func configOf(kernel string) []byte {
	dir, name := filepath.Split(kernel)
	_, release, ok := strings.Cut(name, "-")
	if !ok {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, "config-"+release))
	if err != nil {
		return nil
	}
	defer f.Close()
	config, err := readBounded(f, maxConfig)
	if err != nil {
		return nil
	}
	return config
}

func readImage(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readBounded(f, maxPacked)
}

// install hands what the other steps found to the store.
func (t *setup) install(ctx context.Context) (string, error) {
	k, err := t.store.Install(ctx, t.source)
	if err != nil {
		return "", err
	}
	t.result = k
	return fmt.Sprintf("%s, %d modules", k.Release, len(k.Modules)), nil
}
