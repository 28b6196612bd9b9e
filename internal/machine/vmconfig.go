package machine

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
)

func (m *Manager) stateDir(id ID) string {
	return filepath.Join(m.cfg.StateDir, "machines", string(id))
}

func (m *Manager) diskPath(id ID) string {
	return filepath.Join(m.stateDir(id), "disk.ext4")
}

// vmConfig is what a driver needs to adopt a machine's VMM or to clean up
// after it: all that follows from the record alone.
func (m *Manager) vmConfig(mc *Machine) VMConfig {
	cfg := VMConfig{
		ID:     mc.ID,
		RunDir: filepath.Join(m.cfg.RunDir, "machines", string(mc.ID)),
		VCPUs:  mc.Spec.VCPUs,
		MemMiB: mc.Spec.MemMiB,
	}
	if m.cfg.UIDBase != 0 {
		cfg.UID = m.cfg.UIDBase + mc.Slot
		cfg.GID = cfg.UID
	}
	if mc.Spec.Network.Enable {
		cfg.Network = &NetworkConfig{MAC: slotMAC(mc.Slot), Forwards: slices.Clone(mc.PortForwards)}
	}
	return cfg
}

// bootConfig adds to vmConfig what a boot needs. lease is nil for a machine
// without image. The driver chooses the host's ports.
func (m *Manager) bootConfig(mc *Machine, boot BootFiles, lease *ImageLease, caps Capabilities) VMConfig {
	base := orDefault(mc.Spec.RootfsPath, m.cfg.RootfsPath)
	if lease != nil {
		base = lease.BasePath
	}
	cfg := m.vmConfig(mc)
	cfg.KernelPath, cfg.InitrdPath, cfg.SmallInitrdPath = boot.KernelPath, boot.InitrdPath, boot.SmallInitrdPath
	cfg.KernelArgs = strings.TrimSpace(m.cfg.KernelArgs + " " + mc.Spec.KernelArgs)
	cfg.Drives = []Drive{
		{ID: "base", Path: base, ReadOnly: true},
		{ID: "disk", Path: m.diskPath(mc.ID)},
	}
	if cfg.Network != nil && caps.PortForwards && m.cfg.PortForwards {
		for _, port := range mc.Spec.ExposedPorts {
			cfg.Network.Forwards = append(cfg.Network.Forwards, PortForward{GuestPort: port})
		}
	}
	return cfg
}

// guestConfig is what the guest's init is told.
func (m *Manager) guestConfig(mc *Machine) BootConfig {
	cfg := BootConfig{
		Hostname: string(mc.ID),
		Overlay:  true,
		Volumes:  mc.ImageConfig.Volumes,
		Env:      mergeEnv(mc.ImageConfig.Env, mc.Spec.Env),
		WorkDir:  mc.ImageConfig.WorkingDir,
		User:     mc.ImageConfig.User,
	}
	if mc.Spec.Network.Enable {
		network := m.cfg.GuestNetwork
		cfg.Network = &network
	}
	return cfg
}

// mergeEnv lets the later of two entries with one name win.
func mergeEnv(lists ...[]string) []string {
	var env []string
	at := make(map[string]int)
	for _, kv := range slices.Concat(lists...) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := at[name]; ok {
			env[i] = kv
			continue
		}
		at[name] = len(env)
		env = append(env, kv)
	}
	return env
}

// slotMAC is a locally administered address with the reference's AA:FC prefix.
func slotMAC(slot int) net.HardwareAddr {
	return net.HardwareAddr{0xaa, 0xfc, byte(slot >> 24), byte(slot >> 16), byte(slot >> 8), byte(slot)}
}
