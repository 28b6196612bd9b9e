package qemu

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const (
	maxDrives   = 16   // beside rng, serial and net within microvm's 24 virtio-mmio slots
	maxForwards = 64   // each is a listening socket of QEMU's
	maxKernel   = 2047 // COMMAND_LINE_SIZE of x86 and arm64 less the final NUL
	maxVCPUs    = 255  // what QEMU's microvm and virt machines take without an IOMMU
)

var driveID = regexp.MustCompile(`^[0-9A-Za-z_]{1,20}$`) // 20: VIRTIO_BLK_ID_BYTES

func checkRunDir(cfg machine.VMConfig) error {
	if _, err := machine.ParseID(string(cfg.ID)); err != nil {
		return invalid("bad machine id %q", string(cfg.ID))
	}
	if !filepath.IsAbs(cfg.RunDir) || filepath.Clean(cfg.RunDir) != cfg.RunDir || cfg.RunDir == "/" {
		return invalid("run directory of %s is not an absolute clean path", cfg.ID)
	}
	return nil
}

// check finds what could never boot, before anything is made.
func (d *Driver) check(cfg machine.VMConfig) error {
	if err := checkRunDir(cfg); err != nil {
		return err
	}
	if err := checkUser(cfg, os.Geteuid()); err != nil {
		return err
	}
	if cfg.VCPUs < 1 || cfg.VCPUs > maxVCPUs {
		return invalid("%d vCPUs: want 1 to %d", cfg.VCPUs, maxVCPUs)
	}
	if cfg.MemMiB < 1 || cfg.MemMiB > math.MaxInt32 {
		return invalid("%d MiB of memory", cfg.MemMiB)
	}
	if err := checkFile(cfg.KernelPath, "KERNEL_NOT_FOUND", "kernel"); err != nil {
		return err
	}
	if cfg.InitrdPath != "" {
		if err := checkFile(cfg.InitrdPath, "INITRD_NOT_FOUND", "initramfs"); err != nil {
			return err
		}
	}
	if isSmall(cfg) {
		if err := checkFile(cfg.SmallInitrdPath, "INITRD_NOT_FOUND", "initramfs"); err != nil {
			return err
		}
	}
	if err := checkDrives(cfg.Drives); err != nil {
		return err
	}
	if err := checkNetwork(cfg.Network); err != nil {
		return err
	}
	// The longest hint stands in for the one that is measured later.
	_, err := d.arch.commandLine(cfg, math.MaxUint32)
	return err
}

// checkUser makes sure that no VMM runs as root.
func checkUser(cfg machine.VMConfig, euid int) error {
	switch {
	case cfg.UID < 0 || cfg.GID < 0 || cfg.UID > math.MaxInt32 || cfg.GID > math.MaxInt32:
		return invalid("bad VMM user %d:%d", cfg.UID, cfg.GID)
	case cfg.UID == 0 && euid == 0, cfg.UID != 0 && cfg.GID == 0:
		return invalid("a VMM does not run as root")
	case cfg.UID != 0 && cfg.UID != euid && euid != 0:
		return errdefs.New(errdefs.Unsupported, "UNSUPPORTED", "only root can run a VMM as another user")
	}
	return nil
}

func checkFile(path, code, what string) error {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return invalid("%s is not a regular file", what)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return errdefs.Wrap(err, errdefs.NotFound, code, "%s not found", what)
	}
	return err
}

func checkDrives(drives []machine.Drive) error {
	if len(drives) > maxDrives {
		return invalid("%d drives: at most %d", len(drives), maxDrives)
	}
	seen := map[string]bool{}
	for _, dr := range drives {
		if !driveID.MatchString(dr.ID) || seen[dr.ID] {
			return invalid("bad or repeated drive id %q", dr.ID)
		}
		seen[dr.ID] = true
		if err := checkFile(dr.Path, "DRIVE_NOT_FOUND", "drive "+dr.ID); err != nil {
			return err
		}
	}
	return nil
}

func checkNetwork(n *machine.NetworkConfig) error {
	if n == nil {
		return nil
	}
	if len(n.MAC) != 0 && (len(n.MAC) != 6 || n.MAC[0]&1 != 0) {
		return invalid("bad MAC address %s", n.MAC)
	}
	if len(n.Forwards) > maxForwards {
		return invalid("%d port forwards: at most %d", len(n.Forwards), maxForwards)
	}
	for _, f := range n.Forwards {
		if f.GuestPort == 0 {
			return invalid("port forward to guest port 0")
		}
	}
	return nil
}

// checkKernelArgs keeps a caller's kernel arguments on one line of text.
func checkKernelArgs(args string) error {
	if strings.ContainsFunc(args, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return invalid("kernel arguments hold a control character")
	}
	return nil
}

func invalid(format string, args ...any) error {
	return errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", format, args...)
}
