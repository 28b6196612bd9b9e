package image

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Bounds of what is kept of a config. All of it travels to the guest in one
// message and is stored with each machine.
const (
	maxConfigItems = 4096
	maxConfigBytes = 512 << 10
)

// machineConfig returns the part of c that machines use, bounded.
func machineConfig(c *manifest.Config) (machine.ImageConfig, error) {
	s := c.Config
	out := machine.ImageConfig{
		Env:          s.Env,
		Entrypoint:   s.Entrypoint,
		Cmd:          s.Cmd,
		WorkingDir:   s.WorkingDir,
		User:         s.User,
		Volumes:      volumes(s.Volumes),
		ExposedPorts: slices.Sorted(maps.Keys(s.ExposedPorts)),
		Labels:       s.Labels,
		StopSignal:   s.StopSignal,
		Architecture: c.Architecture,
	}
	items, size := 0, 0
	for _, list := range [][]string{
		out.Env, out.Entrypoint, out.Cmd, out.Volumes, out.ExposedPorts,
		{out.WorkingDir, out.User, out.StopSignal, out.Architecture},
		slices.Collect(maps.Keys(out.Labels)), slices.Collect(maps.Values(out.Labels)),
	} {
		items += len(list)
		for _, s := range list {
			size += len(s)
			if strings.IndexByte(s, 0) >= 0 {
				return machine.ImageConfig{}, layer.Corrupt(nil, "image config has a NUL in a value")
			}
		}
	}
	if items > maxConfigItems || size > maxConfigBytes {
		return machine.ImageConfig{}, tooLargeConfig()
	}
	return out, nil
}

// volumes returns the paths sorted, absolute and clean, without the root.
func volumes(set map[string]struct{}) []string {
	var list []string
	for v := range set {
		if v = path.Clean("/" + v); v != "/" {
			list = append(list, v)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
