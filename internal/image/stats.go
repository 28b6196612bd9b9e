package image

// Stats is the state of the cache, and what the Store has counted since it was
// opened.
type Stats struct {
	Images    int
	Bytes     int64 // on disk, unfinished downloads included
	MaxBytes  int64
	Hits      int64 // images asked for that were here
	Misses    int64 // that had to be pulled, or could not be
	Pulls     int64 // that ended well
	Failures  int64 // pulls that did not
	Imports   int64
	Evictions int64
}

// Stats returns a copy.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Images, st.MaxBytes = len(s.images), s.opts.MaxBytes
	st.Bytes = s.usedLocked()
	return st
}

// usedLocked is the disk space of all images and unfinished downloads.
func (s *Store) usedLocked() int64 {
	total := s.ingest.used()
	for _, e := range s.images {
		total += e.Size
	}
	return total
}
