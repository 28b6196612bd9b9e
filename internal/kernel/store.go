package kernel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Names in a store's folder.
const (
	currentLink = "current"     // symbolic link to the installed kernel's folder
	recordFile  = "kernel.json" // its Installed record
	kernelFile  = "vmlinux"     // the kernel itself
	modulesDir  = "modules"     // its modules, by their file names
	bootDir     = "initramfs"   // made initramfs files, of all kernels
)

// recordFormat changes when Install makes a kernel's folder in another way, for
// instance with other modules; Setup then makes it anew.
const recordFormat = 5

// How many of a kind are kept when a new one is made: a start that has looked
// up the one before finds it still there.
const (
	keepKernels   = 2
	keepInitramfs = 4
)

// Store is a folder that holds the guest kernel, and the initramfs files that
// were made for it. It implements machine.Kernels. It is safe for concurrent
// use, also by several processes.
type Store struct {
	dir      string
	initPath string

	mu   sync.Mutex // one initramfs is made at a time
	init initFile   // what initPath held when it was last read
}

// Installed describes a kernel in a store.
type Installed struct {
	Format        int       `json:"format"` // of what Install makes: recordFormat
	Release       string    `json:"release"`
	Arch          Arch      `json:"arch"`
	Source        string    `json:"source"`                  // "package NAME=VERSION" or "file PATH"
	SHA256        string    `json:"sha256"`                  // of the kernel as VMMs load it
	Modules       []string  `json:"modules"`                 // file names in load order
	Later         int       `json:"later"`                   // how many of them, at the end, are for later
	SmallModules  []string  `json:"small_modules,omitempty"` // the same for guests with little memory; none when they get the others
	SmallLater    int       `json:"small_later,omitempty"`
	ModulesSHA256 string    `json:"modules_sha256,omitempty"` // of both: names and contents
	InstalledAt   time.Time `json:"installed_at"`

	Path string `json:"-"` // of the kernel as VMMs load it
}

// initFile is a file's content, and what tells that it changed.
type initFile struct {
	size  int64
	mtime time.Time
	data  []byte
	sum   [sha256.Size]byte
}

// NewStore returns the store in dir, which is made when something is put into
// it. initPath is hyperfleet-init for the guests; it is read when it is needed.
func NewStore(dir, initPath string) *Store {
	return &Store{dir: dir, initPath: initPath}
}

// Installed returns the kernel that Boot uses; errdefs.NotFound when there is none.
func (s *Store) Installed() (Installed, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(s.dir, currentLink))
	if err != nil {
		return Installed{}, errdefs.Wrap(err, errdefs.NotFound, "KERNEL_NOT_FOUND",
			"no guest kernel is installed: run `hyperfleet setup`")
	}
	return readInstalled(dir)
}

func readInstalled(dir string) (Installed, error) {
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if err != nil {
		return Installed{}, fmt.Errorf("read kernel record: %w", err)
	}
	var k Installed
	if err := json.Unmarshal(b, &k); err != nil {
		return Installed{}, fmt.Errorf("read kernel record %s: %w", dir, err)
	}
	k.Path = filepath.Join(dir, kernelFile)
	return k, nil
}

// Boot implements machine.Kernels. Each initramfs is made on the first call, and
// again when the kernel or init have changed. A kernelPath outside the store is
// taken for a kernel whose drivers are built in: its initramfs has no modules,
// and there is none for guests with little memory.
func (s *Store) Boot(ctx context.Context, kernelPath string) (machine.BootFiles, error) {
	k, err := s.kernel(kernelPath)
	if err != nil {
		return machine.BootFiles{}, err
	}
	if err := ctx.Err(); err != nil {
		return machine.BootFiles{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readInit(); err != nil {
		return machine.BootFiles{}, err
	}
	files := machine.BootFiles{KernelPath: k.Path}
	if files.InitrdPath, err = s.initramfs(k, ordinary); err != nil {
		return machine.BootFiles{}, err
	}
	if len(k.SmallModules) == 0 {
		return files, nil
	}
	files.SmallInitrdPath, err = s.initramfs(k, small)
	return files, err
}

// variant is one of the two initramfs files that a kernel can have.
type variant struct {
	suffix  string // of the file's name
	modules func(Installed) (files []string, later int)
	write   func(w io.Writer, init []byte, modules []Module) error
}

var (
	ordinary = variant{".cpio", func(k Installed) ([]string, int) { return k.Modules, k.Later }, WriteInitramfs}
	small    = variant{".cpio.gz", func(k Installed) ([]string, int) { return k.SmallModules, k.SmallLater }, WriteSmallInitramfs}
)

// initramfs returns the path of a kernel's initramfs, which it makes when it is
// not there yet.
func (s *Store) initramfs(k Installed, v variant) (string, error) {
	path := filepath.Join(s.dir, bootDir, s.initramfsName(k)+v.suffix)
	if err := touch(path); errors.Is(err, os.ErrNotExist) {
		if err := s.makeInitramfs(path, k, v); err != nil {
			return "", explain("the initramfs", err)
		}
	} else if err != nil {
		return "", fmt.Errorf("find initramfs: %w", err)
	}
	return path, nil
}

// kernel returns the installed kernel, or the one at path.
func (s *Store) kernel(path string) (Installed, error) {
	if path == "" {
		return s.Installed()
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return Installed{}, errdefs.Wrap(err, errdefs.Invalid, "KERNEL_IMAGE_NOT_FOUND", "kernel image not found: %s", path)
	}
	// The path of a kernel of ours, as a setting may hold, means its modules too.
	if file, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(file) == kernelFile {
		if store, err := filepath.EvalSymlinks(s.dir); err == nil && filepath.Dir(filepath.Dir(file)) == store {
			return readInstalled(filepath.Dir(file))
		}
	}
	return Installed{Path: path}, nil
}

// readInit refreshes s.init when the file changed.
func (s *Store) readInit() error {
	f, err := os.Open(s.initPath)
	if err != nil {
		return errdefs.Wrap(err, errdefs.NotFound, "INIT_NOT_FOUND",
			"hyperfleet-init is not there: put it beside hyperfleet, or set HYPERFLEET_INIT_PATH")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read init: %w", err)
	}
	if info.Size() == s.init.size && info.ModTime().Equal(s.init.mtime) {
		return nil
	}
	data, err := readBounded(f, maxInit)
	if err != nil {
		return fmt.Errorf("read init %s: %w", s.initPath, err)
	}
	s.init = initFile{size: info.Size(), mtime: info.ModTime(), data: data, sum: sha256.Sum256(data)}
	return nil
}

// maxInit bounds hyperfleet-init; ours has 4 MiB at most.
const maxInit = 64 << 20

// initramfsName names the file by all that goes into it: the format of this
// version, init, and the modules of a kernel, which belong to it.
func (s *Store) initramfsName(k Installed) string {
	const format = "2" // changes with what WriteInitramfs and WriteSmallInitramfs write
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%x\n%s\n%s\n", format, s.init.sum, k.SHA256, k.ModulesSHA256)
	return hex.EncodeToString(h.Sum(nil))[:32]
}

func (s *Store) makeInitramfs(name string, k Installed, v variant) error {
	files, later := v.modules(k)
	modules := make([]Module, len(files))
	for i, file := range files {
		data, err := os.ReadFile(filepath.Join(filepath.Dir(k.Path), modulesDir, filepath.Base(file)))
		if err != nil {
			return err
		}
		modules[i] = Module{File: file, Data: data, Later: i >= len(modules)-later}
	}
	dir := filepath.Dir(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := sweep(dir); err != nil {
		return err
	}
	err := writeFile(name, 0o644, func(w io.Writer) error {
		return v.write(w, s.init.data, modules)
	})
	if err != nil {
		return err
	}
	return keepNewest(dir, "*"+v.suffix, keepInitramfs, filepath.Base(name))
}
