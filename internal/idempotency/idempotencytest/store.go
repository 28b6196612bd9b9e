// Package idempotencytest has a Store in memory and the suite that every Store
// passes.
package idempotencytest

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
)

// Store is an idempotency.Store in memory.
type Store struct {
	mu      sync.Mutex
	records []idempotency.Record // the oldest first
}

// NewStore returns an empty Store.
func NewStore() *Store { return &Store{} }

func (s *Store) find(k idempotency.Key) int {
	return slices.IndexFunc(s.records, func(r idempotency.Record) bool { return r.Key == k })
}

// StartRequest implements idempotency.Store.
func (s *Store) StartRequest(ctx context.Context, r idempotency.Record) (idempotency.Record, bool, error) {
	if err := ctx.Err(); err != nil {
		return idempotency.Record{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.find(r.Key); i >= 0 {
		if old := s.records[i]; old.ExpiresAt.After(r.CreatedAt) {
			return old, true, nil
		}
		s.records = slices.Delete(s.records, i, i+1)
	}
	s.records = append(s.records, r)
	return idempotency.Record{}, false, nil
}

// FinishRequest implements idempotency.Store.
func (s *Store) FinishRequest(_ context.Context, k idempotency.Key, r idempotency.Result, b idempotency.Bounds) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.find(k)
	if i < 0 {
		return errdefs.New(errdefs.NotFound, "NOT_FOUND", "no record of the idempotency key")
	}
	r.Body, r.Header = slices.Clone(r.Body), maps.Clone(r.Header)
	s.records[i].Result = &r
	for n, size := s.use(k.Caller); n > b.CallerRecords || size > b.CallerBytes; n, size = s.use(k.Caller) {
		s.displace(k.Caller)
	}
	for n, size := s.use(""); n > b.Records || size > b.Bytes; n, size = s.use("") {
		s.displace(s.largest())
	}
	return nil
}

// use counts the finished records of a caller; of all for "", who is tested
// with a name.
func (s *Store) use(caller string) (n int, size int64) {
	for _, r := range s.records {
		if r.Result != nil && (caller == "" || r.Key.Caller == caller) {
			n, size = n+1, size+r.Result.Size()
		}
	}
	return n, size
}

func (s *Store) largest() (caller string) {
	most := int64(-1)
	for _, r := range s.records {
		if _, size := s.use(r.Key.Caller); r.Result != nil && size > most {
			caller, most = r.Key.Caller, size
		}
	}
	return caller
}

func (s *Store) displace(caller string) {
	i := slices.IndexFunc(s.records, func(r idempotency.Record) bool { return r.Result != nil && r.Key.Caller == caller })
	s.records = slices.Delete(s.records, i, i+1)
}

// ForgetRequest implements idempotency.Store.
func (s *Store) ForgetRequest(_ context.Context, k idempotency.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = slices.DeleteFunc(s.records, func(r idempotency.Record) bool { return r.Key == k })
	return nil
}

// PruneRequests implements idempotency.Store.
func (s *Store) PruneRequests(_ context.Context, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = slices.DeleteFunc(s.records, func(r idempotency.Record) bool { return !r.ExpiresAt.After(now) })
	return nil
}

// Len is how many records there are.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}
