package busybox

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
)

// Media types of the OCI image specification 1.1.
const (
	typeIndex    = "application/vnd.oci.image.index.v1+json"
	typeManifest = "application/vnd.oci.image.manifest.v1+json"
	typeConfig   = "application/vnd.oci.image.config.v1+json"
	typeLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// refName is the annotation that tags an image within a layout.
const refName = "org.opencontainers.image.ref.name"

type (
	descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      string            `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	manifest struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Config        descriptor   `json:"config"`
		Layers        []descriptor `json:"layers"`
	}
	index struct {
		SchemaVersion int          `json:"schemaVersion"`
		MediaType     string       `json:"mediaType"`
		Manifests     []descriptor `json:"manifests"`
	}
	config struct {
		Architecture string    `json:"architecture"`
		OS           string    `json:"os"`
		Config       runConfig `json:"config"`
		RootFS       rootFS    `json:"rootfs"`
	}
	runConfig struct {
		Env []string `json:"Env"`
		Cmd []string `json:"Cmd"`
	}
	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}
)

// writeImage fills dir, which is empty, as the image layout specification says.
func writeImage(dir string, binary []byte, arch string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	layer, diffID, err := packLayer(binary)
	if err != nil {
		return err
	}
	m := manifest{SchemaVersion: 2, MediaType: typeManifest, Layers: make([]descriptor, 1)}
	m.Layers[0], err = writeBlob(blobs, typeLayer, layer)
	if err != nil {
		return err
	}
	m.Config, err = writeJSON(blobs, typeConfig, config{
		Architecture: arch,
		OS:           "linux",
		Config: runConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"/bin/sh"},
		},
		RootFS: rootFS{Type: "layers", DiffIDs: []string{diffID}},
	})
	if err != nil {
		return err
	}
	d, err := writeJSON(blobs, typeManifest, m)
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{refName: "latest"}
	b, err := json.Marshal(index{SchemaVersion: 2, MediaType: typeIndex, Manifests: []descriptor{d}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), b, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

// packLayer returns the compressed layer and the digest of what it unpacks to.
func packLayer(binary []byte) ([]byte, string, error) {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	sum := sha256.New()
	if err := writeRootfs(io.MultiWriter(z, sum), binary); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return packed.Bytes(), "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

func writeJSON(blobs, mediaType string, v any) (descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return descriptor{}, err
	}
	return writeBlob(blobs, mediaType, b)
}

func writeBlob(blobs, mediaType string, b []byte) (descriptor, error) {
	sum := sha256.Sum256(b)
	name := hex.EncodeToString(sum[:])
	if err := os.WriteFile(filepath.Join(blobs, name), b, 0o644); err != nil {
		return descriptor{}, err
	}
	return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(b)}, nil
}
