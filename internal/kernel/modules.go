package kernel

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/kernel/decompress"
)

// Bounds of what is accepted as modules.
const (
	maxModule  = 16 << 20 // of one module, unpacked
	maxModinfo = 64 << 10 // of one .modinfo section
	maxBuiltin = 4 << 20  // of a modules.builtin file
	maxDepth   = 32       // of a chain of dependencies
)

// Module is one loadable module.
type Module struct {
	File  string // base name, "virtio_blk.ko"
	Data  []byte // unpacked
	Later bool   // neither the root nor the agent's serial port need it
}

// wanted is a module that guests need.
type wanted struct {
	name     string
	required bool // without it no guest comes up
	later    bool
}

// The modules of a guest are in the order in which init needs them: the devices'
// bus, the agent's serial port, the disks, the file systems, and then what a boot
// need not wait for. What a kernel has built in is left out.
var (
	ordinaryModules = []wanted{
		{"virtio_mmio", true, false},
		{"virtio_console", false, false},
		{"virtio_blk", true, false},
		{"crc32c_generic", false, false}, // ext4 asks for it by a soft dependency
		{"ext4", true, false},
		{"overlay", true, false},
		{"virtio_net", false, true},
		{"virtio_rng", false, true},
		{"vmw_vsock_virtio_transport", false, true}, // the agent's channel under Firecracker
	}
	smallModules = []wanted{
		{"virtio_pci", true, false},
		{"virtio_console", true, false},
		{"virtio_blk", true, false},
		{"crc32c_generic", false, false},
		{"ext4", true, false},
		{"overlay", true, false},
		{"virtio_net", false, true},
		{"virtio_rng", false, true},
	}
)

// SelectModules returns the modules that an ordinary guest needs of tree, which
// is the /lib/modules/RELEASE folder of the kernel of that release, each after
// those that it depends on, and those for later last.
//
// Dependencies are read from the modules themselves (the "depends" field of
// .modinfo), from which depmod makes modules.dep: packages carry no modules.dep,
// since it is made when they are installed.
func SelectModules(tree fs.FS, release string) ([]Module, error) {
	s, err := newSelection(tree, release)
	if err != nil {
		return nil, err
	}
	return s.choose(ordinaryModules)
}

// SelectSmallModules does the same for a guest with little memory, whose virtio
// devices are on a PCI bus (see machine.BootFiles). It returns none for a kernel
// that has no driver for them.
func SelectSmallModules(tree fs.FS, release string) ([]Module, error) {
	s, err := newSelection(tree, release)
	if err != nil || !s.has("virtio_pci") || !s.has("virtio_console") {
		return nil, err
	}
	return s.choose(smallModules)
}

func (s *selection) choose(list []wanted) ([]Module, error) {
	for _, w := range list {
		if !s.has(w.name) && !w.required {
			continue
		}
		s.later = w.later
		if err := s.add(w.name, 0); err != nil {
			return nil, fmt.Errorf("select module %s: %w", w.name, err)
		}
	}
	return s.modules, nil
}

// selection is the state of one choice of modules.
type selection struct {
	release string
	tree    fs.FS
	files   map[string]string // module name to path in tree
	builtin map[string]bool
	done    map[string]bool
	later   bool // of what is added now
	modules []Module
}

// newSelection finds every module of the tree and what is built in.
func newSelection(tree fs.FS, release string) (*selection, error) {
	s := &selection{release: release, tree: tree, files: map[string]string{}, done: map[string]bool{}}
	err := fs.WalkDir(s.tree, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name, ok := moduleName(p); ok && d.Type().IsRegular() {
			s.files[name] = p
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	s.builtin, err = readBuiltin(tree)
	return s, err
}

// readBuiltin reads modules.builtin, one path per line. A tree without the file
// has nothing built in that we know of.
func readBuiltin(tree fs.FS) (_ map[string]bool, err error) {
	f, err := tree.Open("modules.builtin")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open modules.builtin: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := readBounded(f, maxBuiltin)
	if err != nil {
		return nil, fmt.Errorf("read modules.builtin: %w", err)
	}
	builtin := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			builtin[name] = true
		}
	}
	return builtin, nil
}

// moduleName returns the name of the module in a file: '-' counts as '_', and
// the file may be compressed.
func moduleName(p string) (string, bool) {
	name, suffix, ok := strings.Cut(path.Base(p), ".ko")
	if !ok || !slices.Contains([]string{"", ".xz", ".zst", ".gz"}, suffix) {
		return "", false
	}
	return strings.ReplaceAll(name, "-", "_"), name != ""
}

func (s *selection) has(name string) bool {
	return s.files[name] != "" || s.builtin[name]
}

// add appends a module after its dependencies.
func (s *selection) add(name string, depth int) error {
	if s.done[name] || s.builtin[name] {
		return nil
	}
	file, ok := s.files[name]
	if !ok {
		return fmt.Errorf("module %s: %w", name, fs.ErrNotExist)
	}
	if depth > maxDepth {
		return fmt.Errorf("module %s: dependencies too deep", name)
	}
	s.done[name] = true
	data, err := s.read(file)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	info, err := parseModinfo(data)
	if err != nil {
		return fmt.Errorf("read module %s: %w", name, err)
	}
	if got := info.release(); got != s.release {
		return fmt.Errorf("module %s is of kernel %q, not of %q", name, got, s.release)
	}
	for _, dep := range info.depends() {
		if err := s.add(dep, depth+1); err != nil {
			return err
		}
	}
	s.modules = append(s.modules, Module{File: name + ".ko", Data: data, Later: s.later})
	return nil
}

func (s *selection) read(file string) (_ []byte, err error) {
	f, err := s.tree.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := decompress.Auto(f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return readBounded(r, maxModule)
}

// modinfo is a module's .modinfo section: "key=value" strings.
type modinfo map[string]string

func parseModinfo(module []byte) (modinfo, error) {
	f, err := elf.NewFile(bytes.NewReader(module))
	if err != nil {
		return nil, fmt.Errorf("not a module: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil || section.Type != elf.SHT_PROGBITS {
		return nil, errors.New("not a module: no .modinfo section")
	}
	b, err := readBounded(section.Open(), maxModinfo)
	if err != nil {
		return nil, fmt.Errorf("read .modinfo: %w", err)
	}
	info := modinfo{}
	for field := range bytes.SplitSeq(b, []byte{0}) {
		if key, value, ok := strings.Cut(string(field), "="); ok {
			info[key] = value
		}
	}
	return info, nil
}

// release is the first word of vermagic.
func (m modinfo) release() string {
	release, _, _ := strings.Cut(m["vermagic"], " ")
	return release
}

func (m modinfo) depends() []string {
	return strings.FieldsFunc(strings.ReplaceAll(m["depends"], "-", "_"), func(r rune) bool { return r == ',' })
}

// readBounded reads all of r, or fails when that is more than limit bytes.
func readBounded(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return b, nil
}
