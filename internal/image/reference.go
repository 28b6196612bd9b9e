package image

import (
	"regexp"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

// Reference is a parsed image reference. Either Host and Path are set, with
// Tag or Digest or both, or Digest alone, which names an image that is here.
type Reference struct {
	Host   string // registry with port: "docker.io", "localhost:5000"
	Path   string // repository in it: "library/alpine"
	Tag    string // "" when a digest was given without tag
	Digest manifest.Digest
}

// Grammar of github.com/distribution/reference, the one that Docker has.
var (
	hostPattern = regexp.MustCompile(`^(?:(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9])(?:\.(?:[a-z0-9]|[a-z0-9][a-z0-9-]*[a-z0-9]))*|\[[0-9a-f:]+\])(?::[0-9]{1,5})?$`)
	pathPattern = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	hexPattern  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

const (
	defaultHost  = "docker.io"
	defaultGroup = "library/"
	defaultTag   = "latest"
	maxNameLen   = 255 // of host and path, from the same grammar
	maxRefLen    = 1024
)

// ParseReference parses s as Docker does: without registry it is Docker Hub's,
// without tag and digest it is "latest"; a digest beats a tag. White space
// round it is dropped. What is no reference is INVALID_IMAGE_REF.
func ParseReference(s string) (Reference, error) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > maxRefLen {
		return Reference{}, invalidRef(s, "it is empty or too long")
	}
	if d, err := manifest.ParseDigest(s); err == nil {
		return Reference{Digest: d}, nil
	}
	var ref Reference
	rest := s
	if before, after, ok := strings.Cut(s, "@"); ok {
		d, err := manifest.ParseDigest(after)
		if err != nil {
			return Reference{}, invalidRef(s, "what follows @ is no digest")
		}
		rest, ref.Digest = before, d
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		rest, ref.Tag = rest[:i], rest[i+1:]
		if !tagPattern.MatchString(ref.Tag) {
			return Reference{}, invalidRef(s, "what follows : is no tag")
		}
	}
	return ref.withName(s, rest)
}

func (r Reference) withName(s, name string) (Reference, error) {
	r.Host, r.Path = defaultHost, name
	if first, rest, ok := strings.Cut(name, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		r.Host, r.Path = strings.ToLower(first), rest
	}
	if r.Host == "index.docker.io" || r.Host == "registry-1.docker.io" {
		r.Host = defaultHost
	}
	switch {
	case !hostPattern.MatchString(r.Host):
		return Reference{}, invalidRef(s, "its registry is no host name")
	case !pathPattern.MatchString(r.Path):
		return Reference{}, invalidRef(s, "a repository has lower-case letters, digits and single separators only")
	case hexPattern.MatchString(r.Path):
		return Reference{}, invalidRef(s, "a digest begins with sha256:")
	}
	if r.Host == defaultHost && !strings.Contains(r.Path, "/") {
		r.Path = defaultGroup + r.Path
	}
	if len(r.Host)+1+len(r.Path) > maxNameLen {
		return Reference{}, invalidRef(s, "its name is too long")
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

func invalidRef(s, why string) error {
	return errdefs.New(errdefs.Invalid, "INVALID_IMAGE_REF", "%.200q is no image reference: %s", s, why)
}

// Repository returns the name without tag and digest.
func (r Reference) Repository() string {
	if r.Host == "" {
		return ""
	}
	return r.Host + "/" + r.Path
}

// Identifier returns what a registry is asked for: the digest, or the tag.
func (r Reference) Identifier() string {
	if r.Digest != "" {
		return string(r.Digest)
	}
	return r.Tag
}

// String returns the normalized form: registry/repository:tag, or
// registry/repository@digest, or the digest alone.
func (r Reference) String() string {
	switch {
	case r.Host == "":
		return string(r.Digest)
	case r.Digest != "":
		return r.Repository() + "@" + string(r.Digest)
	default:
		return r.Repository() + ":" + r.Tag
	}
}
