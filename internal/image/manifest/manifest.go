// Package manifest reads the three JSON documents that describe an image:
// the manifest, the index of several platforms, and the config, in their OCI
// and their Docker form.
//
// All of them come from strangers. Parsing bounds what it keeps, and returns
// errors of package errdefs: IMAGE_CORRUPT for what is against the
// specifications, IMAGE_UNSUPPORTED for what is valid and no runnable image,
// IMAGE_NO_PLATFORM, and IMAGE_TOO_MANY_LAYERS. Fetching the documents, and
// checking their digests, is the caller's part. The package holds no state.
package manifest

import (
	"encoding/json"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Media types that this package tells apart, from the OCI image specification
// 1.1 and Docker's image manifest version 2 schema 2.
const (
	OCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	OCIIndex       = "application/vnd.oci.image.index.v1+json"
	OCIConfig      = "application/vnd.oci.image.config.v1+json"
	OCILayer       = "application/vnd.oci.image.layer.v1.tar"
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// MaxIndexEntries bounds the manifests of one index. The largest official
// images list some 30.
const MaxIndexEntries = 1000

// Descriptor points at a blob.
type Descriptor struct {
	MediaType   string            `json:"mediaType,omitempty"`
	Digest      Digest            `json:"digest"`
	Size        int64             `json:"size"` // bytes
	Platform    *Platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Platform says what a manifest of an index runs on.
type Platform struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
}

// Document is a parsed manifest or index; Layers or Manifests is set.
type Document struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Config        *Descriptor  `json:"config,omitempty"`
	Layers        []Descriptor `json:"layers,omitempty"`
	Manifests     []Descriptor `json:"manifests,omitempty"`
}

// IsIndex reports whether d lists manifests instead of layers.
func (d *Document) IsIndex() bool { return d.Manifests != nil }

// Parse reads a manifest or an index of at most maxLayers layers. contentType
// is what the transport said of it and may be empty; the document's own word
// comes first.
func Parse(b []byte, contentType string, maxLayers int) (*Document, error) {
	var d Document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, errdefs.Wrap(err, errdefs.Invalid, "IMAGE_CORRUPT", "image manifest is no valid document")
	}
	if d.MediaType == "" {
		d.MediaType = contentType
	}
	// A document that can be read both ways means different images to
	// different tools (CVE-2021-41190).
	if d.Manifests != nil && (d.Layers != nil || d.Config != nil) {
		return nil, errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "image manifest is an index and a manifest at once")
	}
	if strings.Contains(d.MediaType, "manifest.v1") && !strings.HasPrefix(d.MediaType, "application/vnd.oci.") || d.SchemaVersion != 2 {
		return nil, errdefs.New(errdefs.Invalid, "IMAGE_UNSUPPORTED", "image manifest has schema version %d; 2 is needed", d.SchemaVersion)
	}
	if d.IsIndex() {
		return &d, d.checkIndex()
	}
	return &d, d.checkManifest(maxLayers)
}

func (d *Document) checkIndex() error {
	if len(d.Manifests) > MaxIndexEntries {
		return errdefs.New(errdefs.Exhausted, "IMAGE_MANIFEST_TOO_LARGE", "image index has %d entries; at most %d are allowed", len(d.Manifests), MaxIndexEntries)
	}
	for _, m := range d.Manifests {
		if err := m.check("manifest"); err != nil {
			return err
		}
	}
	return nil
}

func (d *Document) checkManifest(maxLayers int) error {
	if d.Config == nil {
		return errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "image manifest names no config")
	}
	if len(d.Layers) > maxLayers {
		return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_MANY_LAYERS", "image has %d layers; at most %d are allowed", len(d.Layers), maxLayers)
	}
	if err := d.Config.check("config"); err != nil {
		return err
	}
	switch d.Config.MediaType {
	case OCIConfig, DockerConfig, "":
	default:
		return errdefs.New(errdefs.Invalid, "IMAGE_UNSUPPORTED", "reference names an artifact of type %.100q, no container image", d.Config.MediaType)
	}
	for _, l := range d.Layers {
		if err := l.check("layer"); err != nil {
			return err
		}
		if !layerType(l.MediaType) {
			return errdefs.New(errdefs.Invalid, "IMAGE_UNSUPPORTED", "image has a layer of type %.100q", l.MediaType)
		}
	}
	return nil
}

func (d Descriptor) check(what string) error {
	if d.Digest == "" || d.Size < 0 {
		return errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "image manifest has a %s without digest or size", what)
	}
	return nil
}

// layerType reports whether a layer of this type is a tar archive that we can
// read. How it is compressed is seen from its content.
func layerType(mediaType string) bool {
	if strings.HasSuffix(mediaType, "+encrypted") {
		return false
	}
	return mediaType == "" ||
		strings.HasPrefix(mediaType, OCILayer) ||
		strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.v1.tar") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.diff.tar") ||
		strings.HasPrefix(mediaType, "application/vnd.docker.image.rootfs.foreign.diff.tar")
}

// Select picks the manifest of an index for Linux on architecture (as in
// GOARCH). Of several it takes the plainest variant, then the first.
func (d *Document) Select(architecture string) (Descriptor, error) {
	best, rank := Descriptor{}, 0
	for _, m := range d.Manifests {
		if r := m.Platform.rank(architecture, len(d.Manifests) == 1); r > rank {
			best, rank = m, r
		}
	}
	if rank == 0 {
		return Descriptor{}, NoPlatform(architecture)
	}
	return best, nil
}

// NoPlatform is the error of an image that has nothing for this host.
func NoPlatform(architecture string) error {
	return errdefs.New(errdefs.Unsupported, "IMAGE_NO_PLATFORM", "image has no variant for linux/%s", architecture)
}

// rank says how well p suits; 0 means not at all. Every amd64 host runs v1 and
// every arm64 host v8; a higher variant may be more than the host has.
func (p *Platform) rank(architecture string, alone bool) int {
	if p == nil || p.OS == "" && p.Architecture == "" {
		if alone {
			return 1
		}
		return 0
	}
	if p.OS != "linux" || p.Architecture != architecture {
		return 0
	}
	switch p.Variant {
	case "", "v1", "v8":
		return 3
	default:
		return 2
	}
}
