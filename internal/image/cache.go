package image

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Info is what List and Inspect tell of an image.
type Info struct {
	machine.Image          // of a private image without Config: that is content
	Refs          []string // normalized references that name it, sorted
	Public        bool
	InUse         bool // by a machine, or leased at the moment
	Created       time.Time
	LastUsed      time.Time
}

// lease leases a cached image if allow, which may be nil, allows it; nil
// otherwise.
func (s *Store) lease(d manifest.Digest, allow func(*entry) bool) *machine.ImageLease {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.images[d]
	if e == nil || allow != nil && !allow(e) {
		return nil
	}
	e.leases++
	s.stats.Hits++
	return s.leasedLocked(e)
}

// leased makes a lease of what a flight has counted already.
func (s *Store) leased(d manifest.Digest) *machine.ImageLease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leasedLocked(s.images[d])
}

func (s *Store) leasedLocked(e *entry) *machine.ImageLease {
	e.lastUsed = time.Now()
	// Only the order of eviction after a restart hangs on this.
	_ = os.Chtimes(s.recordPath(e.Digest), time.Time{}, e.lastUsed)
	return &machine.ImageLease{
		Image: s.imageOf(e),
		Release: sync.OnceFunc(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.releaseLocked(e.Digest)
		}),
	}
}

func (s *Store) releaseLocked(d manifest.Digest) {
	if e := s.images[d]; e != nil {
		e.leases--
	}
}

func (s *Store) imageOf(e *entry) machine.Image {
	return machine.Image{
		Ref:       e.Ref,
		Digest:    string(e.Digest),
		BasePath:  s.basePath(e.Digest),
		SizeBytes: e.Size,
		Config:    e.Config,
	}
}

// commit gives a draft its name and its record, and leases it once, so that it
// is not evicted before somebody asks for it. It leaves neither when it fails.
// Where the image is there already, from another repository, only its record
// changes.
func (s *Store) commit(d *draft, r record) error {
	used := s.opts.InUse() // not under the mutex: it takes locks of its own
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.images[r.Digest]; e != nil {
		if err := errors.Join(s.extend(e, r), s.disk.remove("drop base", d.path)); err != nil {
			return err
		}
		e.leases++
		return nil
	}
	r.Size, r.Length, r.Created = d.size, d.length, time.Now().UTC()
	base := s.basePath(r.Digest)
	if err := s.disk.rename("name base", d.path, base); err != nil {
		return errors.Join(err, s.disk.remove("drop base", d.path), s.disk.remove("drop base", base))
	}
	if err := s.saveRecord(r); err != nil {
		return errors.Join(err, s.disk.remove("drop record", s.recordPath(r.Digest)), s.disk.remove("drop base", base))
	}
	s.images[r.Digest] = &entry{record: r, lastUsed: time.Now(), leases: 1}
	s.evict(s.opts.MaxBytes, used)
	return nil
}

// extend adds to a record that the image also came from somewhere else.
func (s *Store) extend(e *entry, r record) error {
	changed := e.record
	changed.Repos = slices.Clone(e.Repos)
	for _, repo := range r.Repos {
		if !slices.Contains(changed.Repos, repo) {
			changed.Repos = append(changed.Repos, repo)
		}
	}
	changed.Public = e.Public || r.Public
	if err := s.saveRecord(changed); err != nil {
		return err
	}
	e.record = changed
	return nil
}

// publishImage notes that a registry gave the image to somebody without login.
func (s *Store) publishImage(d manifest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.images[d]; e != nil && !e.Public {
		if err := s.extend(e, record{Public: true}); err != nil {
			s.opts.Logger.Warn("image record not updated", "image", e.Ref, "error", err)
		}
	}
}

// setRef records what a reference names, and makes it the image's own.
func (s *Store) setRef(r reference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.images[r.Digest]
	if e == nil {
		return notFound(r.Ref)
	}
	if old, ok := s.refs[r.Ref]; !ok || old.Top != r.Top || old.Digest != r.Digest || old.Local != r.Local {
		if err := s.saveJSON("save reference", s.refPath(r.Ref), r); err != nil {
			return err
		}
		s.refs[r.Ref] = r
	}
	e.Ref = r.Ref
	return nil
}

// evict removes the least recently used images when all together take more
// than limit, until they take nine tenths of it. What is leased or used by a
// machine stays; whatever a machine has begun to use since used was made is
// leased. Unfinished downloads go first. The mutex is held.
func (s *Store) evict(limit int64, used map[string]bool) {
	total := s.usedLocked()
	if total <= limit {
		return
	}
	goal := limit / 10 * 9
	if partial := s.ingest.used(); partial > 0 {
		if err := s.ingest.sweep(time.Now().Add(time.Hour)); err != nil {
			s.opts.Logger.Warn("unfinished download not removed", "error", err)
		}
		total -= partial - s.ingest.used()
	}
	for _, e := range slices.SortedFunc(maps.Values(s.images), func(a, b *entry) int { return a.lastUsed.Compare(b.lastUsed) }) {
		if total <= goal {
			break
		}
		if e.leases > 0 || used[string(e.Digest)] {
			continue
		}
		if err := s.removeImage(e); err != nil {
			s.opts.Logger.Warn("image not evicted", "image", e.Ref, "error", err)
			continue
		}
		s.stats.Evictions++
		total -= e.Size
	}
}

// removeImage removes the record first: without one a base is nothing. The
// mutex is held.
func (s *Store) removeImage(e *entry) error {
	for ref, r := range s.refs {
		if r.Digest == e.Digest {
			if err := s.removeRef(ref); err != nil {
				return err
			}
		}
	}
	if err := s.disk.remove("remove record", s.recordPath(e.Digest)); err != nil {
		return err
	}
	delete(s.images, e.Digest)
	return s.disk.remove("remove base", s.basePath(e.Digest))
}

func (s *Store) removeRef(ref string) error {
	if err := s.disk.remove("remove reference", s.refPath(ref)); err != nil {
		return err
	}
	delete(s.refs, ref)
	return nil
}

// List returns all images, the most recently used first.
func (s *Store) List(_ context.Context) ([]Info, error) {
	used := s.opts.InUse()
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Info, 0, len(s.images))
	for _, e := range s.images {
		list = append(list, s.infoOf(e, used))
	}
	slices.SortFunc(list, func(a, b Info) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), cmp.Compare(a.Digest, b.Digest))
	})
	return list, nil
}

func (s *Store) infoOf(e *entry, used map[string]bool) Info {
	info := Info{
		Image:    s.imageOf(e),
		Public:   e.Public,
		InUse:    e.leases > 0 || used[string(e.Digest)],
		Created:  e.Created,
		LastUsed: e.lastUsed,
	}
	if !e.Public {
		info.Config = machine.ImageConfig{}
	}
	for ref, r := range s.refs {
		if r.Digest == e.Digest {
			info.Refs = append(info.Refs, ref)
		}
	}
	slices.Sort(info.Refs)
	return info
}

// Inspect returns a cached image by reference or digest; IMAGE_NOT_FOUND if it
// is not here. It asks no registry.
func (s *Store) Inspect(_ context.Context, ref string) (Info, error) {
	used := s.opts.InUse()
	s.mu.Lock()
	defer s.mu.Unlock()
	e, _, err := s.lookup(ref)
	if err != nil {
		return Info{}, err
	}
	return s.infoOf(e, used), nil
}

// lookup finds a cached image; named says that ref is one of its references.
func (s *Store) lookup(ref string) (e *entry, named string, err error) {
	r, err := ParseReference(ref)
	if err != nil {
		return nil, "", err
	}
	if known, ok := s.refs[r.String()]; ok {
		return s.images[known.Digest], known.Ref, nil
	}
	if e := s.images[r.Digest]; e != nil && (r.Host == "" || slices.Contains(e.Repos, r.Repository())) {
		return e, "", nil
	}
	return nil, "", notFound(ref)
}

// Delete forgets a reference, and removes the image when no other is left. A
// digest removes the image with all references. IMAGE_IN_USE says that a
// machine needs it, or a pull or start that is under way.
func (s *Store) Delete(_ context.Context, ref string) error {
	used := s.opts.InUse()
	s.mu.Lock()
	defer s.mu.Unlock()
	e, named, err := s.lookup(ref)
	if err != nil {
		return err
	}
	info := s.infoOf(e, used)
	if named != "" && len(info.Refs) > 1 {
		return s.removeRef(named)
	}
	if info.InUse {
		return inUse(ref)
	}
	return s.removeImage(e)
}

// Prune removes every image that no machine uses, and all unfinished
// downloads. It returns the images that are gone and the bytes of disk space.
func (s *Store) Prune(_ context.Context) ([]machine.Image, int64, error) {
	used := s.opts.InUse()
	s.mu.Lock()
	defer s.mu.Unlock()
	freed := s.ingest.used()
	err := s.ingest.sweep(time.Now().Add(time.Hour))
	freed -= s.ingest.used()
	var gone []machine.Image
	for _, e := range s.images {
		if e.leases > 0 || used[string(e.Digest)] {
			continue
		}
		image := s.imageOf(e)
		if failed := s.removeImage(e); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		gone = append(gone, image)
		freed += e.Size
	}
	return gone, freed, err
}
