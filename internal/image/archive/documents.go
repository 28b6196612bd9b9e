package archive

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

// Annotations with an image's name: of the OCI image specification 1.1,
// annotations.md, where it is often a tag only, and of containerd and Docker.
const (
	refNameAnnotation   = "org.opencontainers.image.ref.name"
	imageNameAnnotation = "io.containerd.image.name"
)

// readLayout follows index.json to the manifest for our platform.
func (img *Image) readLayout(ctx context.Context, m members, opts Options) error {
	img.Kind = "oci"
	raw, err := read(ctx, m, "index.json", opts.MaxManifest)
	if err != nil {
		return err
	}
	doc, err := manifest.Parse(raw, manifest.OCIIndex, opts.MaxLayers)
	if err != nil {
		return err
	}
	if !doc.IsIndex() {
		return layer.Corrupt(nil, "index.json of the image is no index")
	}
	d, err := pick(doc, opts)
	if err != nil {
		return err
	}
	img.Name = nameOf(d)
	for range 3 { // an index may hold an index; more depth has no use
		if raw, err = readBlob(ctx, m, d.Digest, opts.MaxManifest); err != nil {
			return err
		}
		if doc, err = manifest.Parse(raw, d.MediaType, opts.MaxLayers); err != nil {
			return err
		}
		if !doc.IsIndex() {
			return img.useManifest(ctx, m, d.Digest, doc, opts)
		}
		if d, err = doc.Select(opts.Architecture); err != nil {
			return err
		}
	}
	return layer.Corrupt(nil, "image index is nested too deep")
}

// pick takes the only image, the one of the wanted name, or, where all have
// the same name, the one for our platform.
func pick(doc *manifest.Document, opts Options) (manifest.Descriptor, error) {
	if len(doc.Manifests) == 1 {
		return doc.Manifests[0], nil
	}
	same := true
	for _, d := range doc.Manifests {
		if opts.WantReference != "" && nameOf(d) == opts.WantReference {
			return d, nil
		}
		same = same && nameOf(d) == nameOf(doc.Manifests[0])
	}
	if !same {
		return manifest.Descriptor{}, several(len(doc.Manifests))
	}
	return doc.Select(opts.Architecture)
}

func several(n int) error {
	return errdefs.New(errdefs.Invalid, "IMAGE_AMBIGUOUS", "archive holds %d images: give the name of one", n)
}

func nameOf(d manifest.Descriptor) string {
	if name := d.Annotations[imageNameAnnotation]; name != "" {
		return name
	}
	if name := d.Annotations[refNameAnnotation]; strings.ContainsAny(name, "/:") {
		return name
	}
	return ""
}

func (img *Image) useManifest(ctx context.Context, m members, digest manifest.Digest, doc *manifest.Document, opts Options) (err error) {
	img.Digest = digest
	if img.Config, err = readBlob(ctx, m, doc.Config.Digest, opts.MaxManifest); err != nil {
		return err
	}
	for _, l := range doc.Layers {
		open, err := m.opener(blobPath(l.Digest))
		if err != nil {
			return err
		}
		img.Layers = append(img.Layers, Layer{Digest: l.Digest, Open: open})
	}
	return nil
}

func blobPath(d manifest.Digest) string {
	return "blobs/" + strings.Replace(string(d), ":", "/", 1)
}

func readBlob(ctx context.Context, m members, d manifest.Digest, limit int64) ([]byte, error) {
	b, err := read(ctx, m, blobPath(d), limit)
	if err != nil {
		return nil, err
	}
	h := d.NewHash()
	h.Write(b)
	if !d.Matches(h) {
		return nil, layer.Corrupt(nil, "archive has other content for %s than its digest says", d)
	}
	return b, nil
}

// dockerImage is an element of the manifest.json that docker save writes:
// https://github.com/moby/docker-image-spec/blob/main/v1.2.md
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

func (img *Image) readDocker(ctx context.Context, m members, opts Options) error {
	img.Kind = "docker"
	raw, err := read(ctx, m, "manifest.json", opts.MaxManifest)
	if err != nil {
		return err
	}
	var list []dockerImage
	if err := json.Unmarshal(raw, &list); err != nil {
		return layer.Corrupt(err, "manifest.json of the image is no valid document")
	}
	d, err := pickDocker(list, opts.WantReference)
	if err != nil {
		return err
	}
	if len(d.Layers) > opts.MaxLayers {
		return errdefs.New(errdefs.Exhausted, "IMAGE_TOO_MANY_LAYERS", "image has %d layers; at most %d are allowed", len(d.Layers), opts.MaxLayers)
	}
	if len(d.RepoTags) > 0 {
		img.Name = d.RepoTags[0]
	}
	if img.Config, err = read(ctx, m, d.Config, opts.MaxManifest); err != nil {
		return err
	}
	for _, name := range d.Layers {
		open, err := m.opener(name)
		if err != nil {
			return err
		}
		img.Layers = append(img.Layers, Layer{Open: open})
	}
	return nil
}

func pickDocker(list []dockerImage, want string) (dockerImage, error) {
	if len(list) == 1 {
		return list[0], nil
	}
	for _, d := range list {
		for _, tag := range d.RepoTags {
			if want != "" && tag == want {
				return d, nil
			}
		}
	}
	return dockerImage{}, several(len(list))
}
