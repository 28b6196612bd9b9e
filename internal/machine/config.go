package machine

import (
	"errors"
	"log/slog"
	"path/filepath"
	"time"
)

// Config is all that a Manager needs. Store, Driver, Guests, Images, Disks,
// Kernels, StateDir and RunDir are required; every other zero value means the
// default that its field names.
type Config struct {
	Store    Store
	Driver   Driver
	Guests   Guests
	Images   Images
	Disks    Disks
	Kernels  Kernels
	Log      *slog.Logger // default: discards
	Observer Observer     // default: nobody

	HostID   string // recorded as the owner of each machine
	StateDir string // absolute; machines/<id>/ in it holds the machine's disk and log
	RunDir   string // absolute; machines/<id>/ in it belongs to the driver
	UIDBase  int    // a VMM runs as UIDBase + Machine.Slot; 0: as the daemon itself

	RootfsPath  string   // read-only ext4 base of machines without image; "": they are refused
	KernelArgs  string   // kernel arguments of every machine, before its own
	AllowedDirs []string // folders that a caller's kernel and rootfs path may lie in; none: refused

	Limits       Limits
	GuestNetwork GuestNetwork  // what a guest with an interface is told; default: QEMU's user-mode network
	BootTimeout  time.Duration // from boot to the guest's ready; default 60 s
	StopGrace    time.Duration // what the guest's processes get to end in; default 10 s
	LogBytes     int64         // of one machine's log on disk; default 2 MiB
	PortForwards bool          // lead ports of the loopback to the exposed ones, where the driver can
}

// Limits bounds what one machine may ask for, and what they may take together.
type Limits struct {
	DefaultDiskMiB int // writable disk where the caller says nothing; default 1024
	MaxDiskMiB     int // default 1 TiB
	MaxMemMiB      int // default 1 TiB
	MaxVCPUs       int // default 32, the most that Firecracker takes

	Host  Quota // of all machines; default: not limited
	Owner Quota // of each owner's; local callers have none
}

// userNetwork is what QEMU's user-mode network gives every guest.
// https://wiki.qemu.org/Documentation/Networking#User_Networking_(SLIRP)
func userNetwork() GuestNetwork {
	return GuestNetwork{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}}
}

func (c Config) withDefaults() (Config, error) {
	if c.Store == nil || c.Driver == nil || c.Guests == nil || c.Images == nil || c.Disks == nil || c.Kernels == nil {
		return c, errors.New("machine manager needs a store, driver, guests, images, disks and kernels")
	}
	if !filepath.IsAbs(c.StateDir) || !filepath.IsAbs(c.RunDir) {
		return c, errors.New("machine manager needs an absolute state and run directory")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	if c.GuestNetwork.Address == "" {
		c.GuestNetwork = userNetwork()
	}
	c.LogBytes = orDefault(c.LogBytes, 2<<20)
	c.BootTimeout = orDefault(c.BootTimeout, time.Minute)
	c.StopGrace = orDefault(c.StopGrace, 10*time.Second)
	c.Limits.DefaultDiskMiB = orDefault(c.Limits.DefaultDiskMiB, 1024)
	c.Limits.MaxDiskMiB = orDefault(c.Limits.MaxDiskMiB, 1<<20)
	c.Limits.MaxMemMiB = orDefault(c.Limits.MaxMemMiB, 1<<20)
	c.Limits.MaxVCPUs = orDefault(c.Limits.MaxVCPUs, 32)
	return c, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
