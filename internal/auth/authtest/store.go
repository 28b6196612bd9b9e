package authtest

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Store is an auth.Store in memory.
type Store struct {
	mu   sync.Mutex
	keys []auth.Key // in the order of creation
	err  error

	calls atomic.Int64
}

// NewStore returns an empty Store.
func NewStore() *Store { return &Store{} }

var _ auth.Store = (*Store)(nil)

// Calls is how many calls there have been.
func (s *Store) Calls() int { return int(s.calls.Load()) }

// Fail makes every call fail with err, until it is nil.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// begin counts a call and takes mu, which the caller gives back.
func (s *Store) begin(ctx context.Context) error {
	s.calls.Add(1)
	s.mu.Lock()
	if s.err != nil {
		return s.err
	}
	return ctx.Err()
}

// CreateKey implements auth.Store.
func (s *Store) CreateKey(ctx context.Context, k auth.Key) error {
	err := s.begin(ctx)
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(s.keys, func(o auth.Key) bool { return o.ID == k.ID || o.Hash == k.Hash }) {
		return errdefs.New(errdefs.Conflict, "KEY_EXISTS", "API key %s exists", k.ID)
	}
	s.keys = append(s.keys, copied(k))
	return nil
}

// Key implements auth.Store.
func (s *Store) Key(ctx context.Context, id auth.KeyID) (auth.Key, error) {
	err := s.begin(ctx)
	defer s.mu.Unlock()
	if err != nil {
		return auth.Key{}, err
	}
	if k := s.find(id); k != nil {
		return copied(*k), nil
	}
	return auth.Key{}, auth.ErrNotFound
}

// Keys implements auth.Store.
func (s *Store) Keys(ctx context.Context, limit, offset int) ([]auth.Key, int, error) {
	err := s.begin(ctx)
	defer s.mu.Unlock()
	if err != nil {
		return nil, 0, err
	}
	list := make([]auth.Key, 0, len(s.keys))
	for _, k := range slices.Backward(s.keys) {
		list = append(list, copied(k))
	}
	list = list[min(max(offset, 0), len(list)):]
	if limit > 0 {
		list = list[:min(limit, len(list))]
	}
	return list, len(s.keys), nil
}

// RevokeKey implements auth.Store.
func (s *Store) RevokeKey(ctx context.Context, id auth.KeyID, at time.Time) error {
	err := s.begin(ctx)
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	k := s.find(id)
	if k == nil {
		return auth.ErrNotFound
	}
	if k.RevokedAt.IsZero() {
		k.RevokedAt = at
	}
	return nil
}

// TouchKeys implements auth.Store.
func (s *Store) TouchKeys(ctx context.Context, used map[auth.KeyID]time.Time) error {
	err := s.begin(ctx)
	defer s.mu.Unlock()
	if err != nil {
		return err
	}
	for id, at := range used {
		if k := s.find(id); k != nil && at.After(k.LastUsedAt) {
			k.LastUsedAt = at
		}
	}
	return nil
}

func (s *Store) find(id auth.KeyID) *auth.Key {
	for i := range s.keys {
		if s.keys[i].ID == id {
			return &s.keys[i]
		}
	}
	return nil
}

// copied shares nothing with k.
func copied(k auth.Key) auth.Key {
	k.Scopes = slices.Clone(k.Scopes)
	return k
}
