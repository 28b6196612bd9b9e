package manifest

import (
	"encoding/json"
	"slices"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Config is the part of an image's config document that a machine needs.
type Config struct {
	OS           string   `json:"os"`
	Architecture string   `json:"architecture"`
	Config       Settings `json:"config"`
	RootFS       RootFS   `json:"rootfs"`
}

// Settings is what the image's process runs with.
type Settings struct {
	User         string              `json:"User,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Volumes      map[string]struct{} `json:"Volumes,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	Labels       map[string]string   `json:"Labels,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
}

// RootFS lists the digests of the uncompressed layers, the lowest first.
type RootFS struct {
	Type    string   `json:"type"`
	DiffIDs []Digest `json:"diff_ids"`
}

// ParseConfig reads the config of an image of the given number of layers, and
// checks that it runs on Linux on architecture.
func ParseConfig(b []byte, layers int, architecture string) (*Config, error) {
	var c Config
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Invalid, "IMAGE_CORRUPT", "image config is no valid document")
	}
	if len(c.RootFS.DiffIDs) != layers {
		return nil, errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "image has %d layers and its config %d", layers, len(c.RootFS.DiffIDs))
	}
	if slices.Contains(c.RootFS.DiffIDs, "") {
		return nil, errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "image config has a layer without digest")
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != architecture {
		return nil, NoPlatform(architecture)
	}
	return &c, nil
}
