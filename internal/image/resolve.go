package image

import (
	"context"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/image/registry"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Resolve implements machine.Images. Progress is called by the calling
// goroutine, and no more after the return. When ctx ends, Resolve returns its
// cause, and the pull goes on if others wait for it.
func (s *Store) Resolve(ctx context.Context, req machine.ImageRequest) (*machine.ImageLease, error) {
	report := req.Progress
	if report == nil {
		report = func(machine.ImageProgress) {}
	}
	report(machine.ImageProgress{Phase: "resolve"})
	if lease := s.lease(s.publicByShort(req.Ref), isPublic); lease != nil {
		report(machine.ImageProgress{Phase: "done"})
		return lease, nil
	}
	ref, err := ParseReference(req.Ref)
	if err != nil {
		return nil, err
	}
	lease := s.leaseKnown(ref)
	if lease == nil {
		if ref.Host == "" {
			return nil, notFound(req.Ref)
		}
		lease, err = s.ask(ctx, ref, req.Auth, report)
		if err != nil {
			return nil, explain(ctx, err)
		}
	}
	if ref.Host != "" {
		lease.Ref = ref.String() // of several names of one image, the caller's
	}
	report(machine.ImageProgress{Phase: "done"})
	return lease, nil
}

// Open implements machine.Images.
func (s *Store) Open(_ context.Context, digest string) (*machine.ImageLease, error) {
	d, err := manifest.ParseDigest(digest)
	if err != nil {
		return nil, err
	}
	if lease := s.lease(d, nil); lease != nil {
		return lease, nil
	}
	return nil, notFound(digest)
}

// leaseKnown leases an image that needs no registry: an imported one, or a
// public one that is named by digest.
func (s *Store) leaseKnown(ref Reference) *machine.ImageLease {
	s.mu.Lock()
	known, ok := s.refs[ref.String()]
	s.mu.Unlock()
	switch {
	case ok && known.Local:
		return s.lease(known.Digest, nil)
	case ref.Digest == "":
		return nil
	case ok:
		return s.lease(known.Digest, isPublic)
	default:
		return s.lease(ref.Digest, isPublic)
	}
}

func isPublic(e *entry) bool { return e.Public }

// ask resolves ref at its registry. Where that cannot be reached, what the
// reference named last is good enough, if it is public.
func (s *Store) ask(ctx context.Context, ref Reference, auth *machine.RegistryAuth, report func(machine.ImageProgress)) (*machine.ImageLease, error) {
	lease, err := s.askRegistry(ctx, ref, auth, report)
	if !errdefs.Is(err, errdefs.Unavailable) {
		return lease, err
	}
	s.mu.Lock()
	known, ok := s.refs[ref.String()]
	s.mu.Unlock()
	if ok {
		if lease := s.lease(known.Digest, isPublic); lease != nil {
			s.opts.Logger.Warn("registry is away, cached image is used", "image", ref.String(), "error", err)
			return lease, nil
		}
	}
	return nil, err
}

func (s *Store) askRegistry(ctx context.Context, ref Reference, auth *machine.RegistryAuth, report func(machine.ImageProgress)) (*machine.ImageLease, error) {
	repo, err := s.client.Open(ctx, ref.Host, ref.Path, auth)
	if err != nil {
		return nil, err
	}
	lease := s.unchanged(ctx, repo, ref)
	if lease != nil {
		return lease, nil
	}
	t, err := s.find(ctx, repo, ref)
	if err != nil {
		return nil, err
	}
	if lease = s.leaseFrom(t.digest, repo, ref); lease == nil {
		key := ref.Repository() + "@" + string(t.digest)
		d, err := s.fly(ctx, key, func(ctx context.Context, publish func(machine.ImageProgress)) (manifest.Digest, error) {
			return s.pull(ctx, repo, t, publish)
		}, report)
		if err != nil {
			return nil, err
		}
		lease = s.leased(d)
	}
	if err := s.setRef(reference{Ref: ref.String(), Top: t.top, Digest: t.digest, Updated: time.Now().UTC()}); err != nil {
		lease.Release()
		return nil, err
	}
	return lease, nil
}

// unchanged leases what ref named last if the registry says that it still does;
// nil where it does not, or cannot be asked that way. A HEAD request costs
// nothing of a registry's rate limit.
func (s *Store) unchanged(ctx context.Context, repo *registry.Repository, ref Reference) *machine.ImageLease {
	s.mu.Lock()
	known, ok := s.refs[ref.String()]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	if top, err := repo.Head(ctx, ref.Identifier()); err != nil || top != known.Top {
		return nil // asking for the manifest tells what is wrong
	}
	return s.leaseFrom(known.Digest, repo, ref)
}

// leaseFrom leases a cached image for somebody to whom repo has just granted
// it, unless it came from elsewhere.
func (s *Store) leaseFrom(d manifest.Digest, repo *registry.Repository, ref Reference) *machine.ImageLease {
	lease := s.lease(d, func(e *entry) bool { return e.grants(ref.Repository()) })
	if lease != nil && repo.Anonymous {
		s.publishImage(d)
	}
	return lease
}

// Pull is Resolve without a lease, for callers who want the image later.
func (s *Store) Pull(ctx context.Context, req machine.ImageRequest) (machine.Image, error) {
	lease, err := s.Resolve(ctx, req)
	if err != nil {
		return machine.Image{}, err
	}
	defer lease.Release()
	return lease.Image, nil
}
