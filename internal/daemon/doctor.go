package daemon

import (
	"context"
	"os"
	"runtime"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/doctor"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/network"
)

// DoctorResult is what one check of Doctor found: ok, warn or fail, and why,
// and what to do.
type DoctorResult = struct{ Name, Level, Reason, Fix string }

// askTimeout bounds what a running daemon is waited for.
const askTimeout = 3 * time.Second

// Doctor tells what this host can do for machines. It changes nothing.
func Doctor(ctx context.Context) ([]DoctorResult, error) {
	loaded, err := config.Load(config.Sources{})
	if err != nil {
		return nil, err
	}
	cfg := loaded.Config
	c := doctor.Config{
		StateDir: cfg.StateDir, RunDir: cfg.RunDir, Socket: cfg.Socket(), Address: cfg.Address(),
		QEMU: cfg.QEMU, KernelPath: cfg.Kernel, Init: cfg.InitPath(), Version: buildinfo.Version(), SocketLimit: 107,
	}
	if c.QEMU == "" {
		c.QEMU = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}[runtime.GOARCH]
	}
	if k, err := kernel.NewStore(cfg.KernelDir(), c.Init).Installed(); c.KernelPath == "" && err != nil {
		c.KernelError = err.Error()
	} else if c.KernelPath == "" {
		c.KernelPath = k.Path
	}
	c.KernelFault = kernelFault(c.KernelPath)
	host := doctor.Local()
	host.Nftables = network.Answers
	host.Daemon = func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		client := &hyperfleet.Client{Host: "unix://" + c.Socket}
		defer client.CloseIdleConnections()
		v, err := client.Version(ctx)
		return v.Version, err
	}
	var list []DoctorResult
	for _, r := range doctor.Check(ctx, c, host) {
		list = append(list, DoctorResult{r.Name, string(r.Level), r.Reason, r.Fix})
	}
	return list, nil
}

// kernelFault says why the kernel at path is not of the form that VMMs load, if
// so: an ELF vmlinux with a PVH entry on amd64, an Image on arm64.
func kernelFault(path string) string {
	if path == "" {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err.Error()
	}
	head := make([]byte, 0x206)
	if _, err := f.ReadAt(head, 0); err == nil && string(head[0x202:]) == "HdrS" { // Documentation/arch/x86/boot.rst
		return "it is a compressed vmlinuz"
	}
	if _, err := kernel.Verify(f, info.Size(), kernel.Arch(runtime.GOARCH)); err != nil {
		return err.Error()
	}
	return ""
}
