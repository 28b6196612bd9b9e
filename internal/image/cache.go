package image

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Info is what List and Inspect tell of an image.
type Info struct {
	machine.Image          // of a private image without Config: that is content
	Refs          []string // normalized references that name it, sorted
	Public        bool
	InUse         bool // by a machine, also by name before its first start, or leased at the moment
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
	s.evict(s.opts.MaxBytes, s.digestsOf(used))
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
	used = s.digestsOf(used)
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
	switch { // the name that it was last resolved by may be gone, or another image's by now
	case slices.Contains(info.Refs, e.Ref):
	case len(info.Refs) > 0:
		info.Ref = info.Refs[0]
	default:
		info.Ref = info.Digest
	}
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
	return s.infoOf(e, s.digestsOf(used)), nil
}

// lookup finds a cached image; named says that ref is one of its references.
// What is no name of an image may be the beginning of its digest.
func (s *Store) lookup(ref string) (e *entry, named string, err error) {
	r, parseErr := ParseReference(ref)
	if parseErr == nil {
		if known, ok := s.refs[r.String()]; ok {
			return s.images[known.Digest], known.Ref, nil
		}
		if e := s.images[r.Digest]; e != nil && (r.Host == "" || slices.Contains(e.Repos, r.Repository())) {
			return e, "", nil
		}
	}
	if e, err := s.byShortDigest(ref); e != nil || err != nil {
		return e, "", err
	}
	if parseErr != nil {
		return nil, "", parseErr
	}
	return nil, "", notFound(ref)
}

// shortDigest is the beginning of a digest's digits, with or without its
// algorithm; lists show twelve.
var shortDigest = regexp.MustCompile(`^(?:sha256:)?([0-9a-f]{6,63})$`)

// byShortDigest finds the one image whose digest begins so; nil when there is
// none. The mutex is held.
func (s *Store) byShortDigest(short string) (found *entry, err error) {
	m := shortDigest.FindStringSubmatch(short)
	if m == nil {
		return nil, nil
	}
	for d, e := range s.images {
		if !strings.HasPrefix(d.Hex(), m[1]) {
			continue
		}
		if found != nil {
			return nil, errdefs.New(errdefs.Invalid, "IMAGE_AMBIGUOUS", "several images have a digest that begins with %q: give more of it", short)
		}
		found = e
	}
	return found, nil
}

// Normalize implements machine.Images. A short digest becomes the whole one of
// a public image that is here.
func (s *Store) Normalize(ref string) (string, error) {
	r, err := ParseReference(ref)
	if d := s.publicByShort(ref); d != "" {
		return string(d), nil
	}
	if err != nil {
		return "", err
	}
	return r.String(), nil
}

// minShort is how many digits of a digest stand for an image where a name would
// do as well: as many as lists show.
const minShort = 12

// publicByShort finds the digest that ref is the beginning of, unless it is a
// name; "" when there is none.
func (s *Store) publicByShort(ref string) manifest.Digest {
	if len(ref) < minShort {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, err := ParseReference(ref); err == nil {
		if _, ok := s.refs[r.String()]; ok || r.Digest != "" {
			return ""
		}
	}
	if e, err := s.byShortDigest(ref); err == nil && e != nil && e.Public {
		return e.Digest
	}
	return ""
}

// digestsOf adds to what InUse tells the digests behind its references. The
// mutex is held.
func (s *Store) digestsOf(used map[string]bool) map[string]bool {
	all := maps.Clone(used)
	for name := range used {
		if known, ok := s.refs[name]; ok {
			all[string(known.Digest)] = true
		}
		if _, digest, ok := strings.Cut(name, "@"); ok {
			all[digest] = true
		}
	}
	return all
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
	info := s.infoOf(e, s.digestsOf(used))
	if named != "" && len(info.Refs) > 1 {
		return s.removeRef(named)
	}
	if info.InUse {
		return inUse(ref)
	}
	return s.removeImage(e)
}

// Prune removes every image that no machine uses and that was last used more
// than unusedFor ago, and unfinished downloads as old. It returns the images
// that are gone and the bytes of disk space.
func (s *Store) Prune(_ context.Context, unusedFor time.Duration) ([]Info, int64, error) {
	used := s.opts.InUse()
	s.mu.Lock()
	defer s.mu.Unlock()
	used = s.digestsOf(used)
	limit := time.Now().Add(-unusedFor)
	if unusedFor <= 0 {
		limit = time.Now().Add(time.Hour) // files may have times of a clock that was wrong
	}
	freed := s.ingest.used()
	err := s.ingest.sweep(limit)
	freed -= s.ingest.used()
	var gone []Info
	for _, e := range s.images {
		info := s.infoOf(e, used)
		if info.InUse || e.lastUsed.After(limit) {
			continue
		}
		if failed := s.removeImage(e); failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		gone = append(gone, info)
		freed += e.Size
	}
	slices.SortFunc(gone, func(a, b Info) int { return cmp.Compare(a.Ref, b.Ref) })
	return gone, freed, err
}
