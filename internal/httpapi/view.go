package httpapi

import (
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// view is the machine as callers see it.
func (s *Server) view(m machine.Machine) hyperfleet.Machine {
	v := hyperfleet.Machine{
		ID:              string(m.ID),
		Name:            m.Spec.Name,
		Status:          hyperfleet.Status(m.State),
		RuntimeType:     s.cfg.Runtime,
		VCPUCount:       m.Spec.VCPUs,
		MemSizeMiB:      m.Spec.MemMiB,
		KernelImagePath: orDefault(m.Spec.KernelPath, s.cfg.KernelPath),
		KernelArgs:      nullable(m.Spec.KernelArgs),
		ImageRef:        nullable(orDefault(m.ImageRef, m.Spec.Image)),
		ImageDigest:     nullable(m.ImageDigest),
		CreatedAt:       wireTime(m.CreatedAt),
		UpdatedAt:       wireTime(m.UpdatedAt),
		ErrorMessage:    nullable(m.ErrorMessage),
		ErrorCode:       m.ErrorCode,
	}
	if m.Spec.Image == "" {
		v.RootfsPath = nullable(orDefault(m.Spec.RootfsPath, s.cfg.RootfsPath))
	}
	if m.Spec.Network.Enable {
		v.Network = &hyperfleet.Network{Enable: true}
	}
	if m.Process != nil {
		v.PID = &m.Process.PID
	}
	if !m.StartedAt.IsZero() {
		t := wireTime(m.StartedAt)
		v.StartedAt = &t
	}
	for _, p := range m.Spec.ExposedPorts {
		v.ExposedPorts = append(v.ExposedPorts, int(p))
	}
	for _, f := range m.PortForwards {
		v.PortForwards = append(v.PortForwards, hyperfleet.PortForward{GuestPort: int(f.GuestPort), HostPort: int(f.HostPort)})
	}
	return v
}

// wireTime is RFC 3339 with milliseconds, in UTC.
func wireTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// spec is what a create request asks for.
func (b createBody) spec() (machine.Spec, error) {
	spec := machine.Spec{
		Name: b.Name, VCPUs: b.VCPUCount, MemMiB: b.MemSizeMiB,
		Image: b.Image, DiskMiB: b.ImageSizeMiB,
		KernelPath: b.KernelImagePath, KernelArgs: b.KernelArgs, RootfsPath: b.RootfsPath,
		Network: machine.NetworkSpec{Enable: b.Network == nil || b.Network.Enable},
	}
	if n := b.Network; n != nil && (n.TapDevice != "" || n.TapIP != "" || n.GuestIP != "" || n.GuestMAC != "") {
		return spec, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "network: host devices and guest addresses are the server's choice; send only \"enable\"")
	}
	for _, p := range b.ExposedPorts {
		if p < 1 || p > 65535 || p != math.Trunc(p) {
			return spec, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "exposed_ports must be valid TCP ports")
		}
		if !slices.Contains(spec.ExposedPorts, uint16(p)) {
			spec.ExposedPorts = append(spec.ExposedPorts, uint16(p))
		}
	}
	var err error
	spec.Env, err = environment(b.Env)
	return spec, err
}

// environment is a map of variables as K=V, in order.
func environment(vars map[string]string) ([]string, error) {
	env := make([]string, 0, len(vars))
	for _, k := range slices.Sorted(maps.Keys(vars)) {
		if k == "" || strings.ContainsAny(k, "=\x00") || strings.Contains(vars[k], "\x00") {
			return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "env: %q is no valid variable", k)
		}
		env = append(env, k+"="+vars[k])
	}
	return env, nil
}
