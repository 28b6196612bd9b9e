package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// record is the durable form of an image. It is written when the image exists.
type record struct {
	Digest  manifest.Digest     `json:"digest"`          // of the manifest for our platform
	Ref     string              `json:"ref"`             // what it was last resolved by
	Repos   []string            `json:"repos,omitempty"` // where it came from, whole and verified
	Public  bool                `json:"public"`          // anybody may have it
	Size    int64               `json:"size"`            // bytes on disk
	Length  int64               `json:"length"`          // of the base file in bytes
	Created time.Time           `json:"created"`
	Config  machine.ImageConfig `json:"config"`
}

// reference is the durable form of what a reference named last.
type reference struct {
	Ref     string          `json:"ref"`
	Top     manifest.Digest `json:"top"`    // what the registry said: an index or a manifest
	Digest  manifest.Digest `json:"digest"` // the manifest for our platform
	Local   bool            `json:"local"`  // imported: no registry knows it
	Updated time.Time       `json:"updated"`
}

// entry is an image in memory, guarded by the Store's mutex.
type entry struct {
	record
	leases   int
	lastUsed time.Time
}

// grants reports whether somebody who may read a repository may have e.
func (e *entry) grants(repo string) bool {
	return e.Public || slices.Contains(e.Repos, repo)
}

func (s *Store) path(parts ...string) string {
	return filepath.Join(append([]string{s.opts.Dir}, parts...)...)
}

func fileName(d manifest.Digest) string { return strings.Replace(string(d), ":", "-", 1) }

func (s *Store) basePath(d manifest.Digest) string   { return s.path("base", fileName(d)+".ext4") }
func (s *Store) recordPath(d manifest.Digest) string { return s.path("base", fileName(d)+".json") }

func (s *Store) refPath(ref string) string { return s.path("refs", hashName(ref)+".json") }

// hashName makes a file name of any string.
func hashName(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func (s *Store) saveRecord(r record) error {
	return s.saveJSON("save record", s.recordPath(r.Digest), r)
}

func (s *Store) saveJSON(op, path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return writeFile(s.disk, op, s.path("tmp"), path, b)
}

// load reads the records of an earlier Store, and drops what is not whole: a
// base without record, a record without base, a reference to neither.
func (s *Store) load() error {
	if err := s.loadImages(); err != nil {
		return err
	}
	for _, path := range s.list("refs") {
		var r reference
		if !readJSON(path, &r) || s.images[r.Digest] == nil || s.refPath(r.Ref) != path {
			if err := s.disk.remove("drop reference", path); err != nil {
				return err
			}
			continue
		}
		s.refs[r.Ref] = r
	}
	return nil
}

func (s *Store) loadImages() error {
	for _, path := range s.list("base") {
		if !strings.HasSuffix(path, ".json") {
			continue
		}
		var r record
		info, ok := os.FileInfo(nil), readJSON(path, &r) && s.recordPath(r.Digest) == path
		if ok {
			base, err := os.Stat(s.basePath(r.Digest))
			ok = err == nil && base.Size() == r.Length
			info, _ = os.Stat(path)
		}
		if ok && info != nil {
			s.images[r.Digest] = &entry{record: r, lastUsed: info.ModTime()}
		}
	}
	for _, path := range s.list("base") {
		name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(path), ".json"), ".ext4")
		d := manifest.Digest(strings.Replace(name, "-", ":", 1))
		if s.images[d] != nil {
			continue
		}
		if err := s.disk.remove("drop half an image", path); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) list(dir string) []string {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil // made a moment ago: the next access tells
	}
	paths := make([]string, len(entries))
	for i, e := range entries {
		paths[i] = s.path(dir, e.Name())
	}
	return paths
}

func readJSON(path string, v any) bool {
	b, err := os.ReadFile(path)
	return err == nil && json.Unmarshal(b, v) == nil
}
