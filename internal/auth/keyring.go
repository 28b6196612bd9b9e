package auth

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	// maxSecret bounds what is hashed; a real key has 35 characters.
	maxSecret = 256
	// maxKeys is how many keys may be usable at a time: they are in memory.
	maxKeys = 10_000
	// DefaultFlushEvery is how long the first use of a key waits to be written.
	DefaultFlushEvery = 30 * time.Second
	// changeTimeout bounds a change of the store, which goes on when its caller
	// leaves: memory and store have to agree.
	changeTimeout = 10 * time.Second
)

// ErrUnauthorized is the answer to every key that opens nothing, whatever is
// wrong with it. The words are the contract's.
var ErrUnauthorized = errdefs.New(errdefs.Unauthorized, "UNAUTHORIZED", "Invalid or missing API key")

// Options are what a Keyring may be told. The zero value is ready.
type Options struct {
	Log *slog.Logger // default: discards
	// FlushEvery is how long uses are gathered before they are written;
	// default DefaultFlushEvery.
	FlushEvery time.Duration
	// Usable, unless nil, is called after a key has come to be, by the
	// goroutine that made it.
	Usable func()
}

// Keyring holds the keys of one daemon. Authenticate answers from memory: it
// neither reads nor writes the store, and a key that was revoked is refused
// from the moment when Revoke returns. When keys were last used is gathered and
// written in batches by a goroutine, which Close ends.
//
// It must be the only one that changes the keys of its store.
type Keyring struct {
	store  Store
	log    *slog.Logger
	every  time.Duration
	usable func()

	change chan struct{} // holds a token while keys are changed
	used   chan struct{} // holds a token while uses wait to be written
	stop   context.CancelFunc
	done   chan struct{} // closed when the writer has ended
	err    error         // of its last writing; read after done

	mu      sync.Mutex
	byHash  map[Hash]*entry
	byID    map[KeyID]*entry
	pending []*entry
}

// entry is a key that was usable when it was added. Its LastUsedAt may be ahead
// of the store's.
type entry struct {
	Key

	pending bool // to be written
}

// Open reads the keys. The caller closes the Keyring.
func Open(ctx context.Context, store Store, o Options) (*Keyring, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.FlushEvery == 0 {
		o.FlushEvery = DefaultFlushEvery
	}
	if o.Usable == nil {
		o.Usable = func() {}
	}
	keys, _, err := store.Keys(ctx, 0, 0)
	if err != nil {
		return nil, fmt.Errorf("read the API keys: %w", err)
	}
	k := &Keyring{
		store: store, log: o.Log, every: o.FlushEvery, usable: o.Usable,
		change: make(chan struct{}, 1), used: make(chan struct{}, 1), done: make(chan struct{}),
		byHash: map[Hash]*entry{}, byID: map[KeyID]*entry{},
	}
	for _, key := range keys {
		if key.usable(time.Now()) {
			k.add(key)
		}
	}
	ctx, k.stop = context.WithCancel(context.WithoutCancel(ctx))
	go k.write(ctx)
	return k, nil
}

// Close writes the uses that are not written yet and ends the writer. Keys go
// on opening what they open; their uses are no longer written. It is
// idempotent.
func (k *Keyring) Close() error {
	k.stop()
	<-k.done
	return k.err
}

// Authenticate returns who uses the key, or ErrUnauthorized.
func (k *Keyring) Authenticate(s Secret) (Caller, error) {
	if s == "" || len(s) > maxSecret {
		return Caller{}, ErrUnauthorized
	}
	hash, now := s.Hash(), time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.byHash[hash]
	if e == nil || !e.usable(now) {
		return Caller{}, ErrUnauthorized
	}
	k.note(e, now)
	return e.caller(), nil
}

// HasUsable reports whether any key opens anything now.
func (k *Keyring) HasUsable() bool { return k.sweep() > 0 }

// sweep forgets the keys that have expired and returns how many there are left.
func (k *Keyring) sweep() int {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.byID {
		if !e.usable(now) {
			k.drop(e)
		}
	}
	return len(k.byID)
}

// CreateRequest says which key Create makes.
type CreateRequest struct {
	Name      string
	Scopes    Scopes
	ExpiresAt time.Time // zero: when the caller's key does
}

// Create makes a key for a caller. The secret is told this once. A caller
// cannot give what it has not: neither scopes that it lacks nor a longer life
// than that of its own key; that is errdefs.Forbidden.
func (k *Keyring) Create(ctx context.Context, by Caller, req CreateRequest) (Key, Secret, error) {
	for _, s := range req.Scopes {
		if !by.Allows(s) {
			return Key{}, "", Forbid(s)
		}
	}
	expires, err := endOf(by, req.ExpiresAt)
	if err != nil {
		return Key{}, "", err
	}
	secret := NewSecret()
	key := Key{
		ID: newKeyID(), Name: req.Name, Hash: secret.Hash(), Prefix: secret.Prefix(), Scopes: req.Scopes,
		CreatedAt: time.Now().UTC(), ExpiresAt: expires,
	}
	if err := k.insert(ctx, by, key); err != nil {
		return Key{}, "", err
	}
	k.usable()
	return key, secret, nil
}

// insert refuses a caller whose own key was revoked since its request began.
func (k *Keyring) insert(ctx context.Context, by Caller, key Key) error {
	ctx, unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	usable := k.sweep()
	if !by.Local && !k.has(by.KeyID) {
		return ErrUnauthorized
	}
	if usable >= maxKeys {
		return errdefs.New(errdefs.Exhausted, "KEY_LIMIT", "there are %d API keys already: revoke those that nobody uses", maxKeys)
	}
	if err := k.store.CreateKey(ctx, key); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.add(key)
	return nil
}

// endOf is when a key expires that a caller wants to expire at expires.
func endOf(by Caller, expires time.Time) (time.Time, error) {
	if !expires.IsZero() && !time.Now().Before(expires) {
		return time.Time{}, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "expires_at has passed already")
	}
	if by.ExpiresAt.IsZero() {
		return expires.UTC(), nil
	}
	if expires.IsZero() {
		return by.ExpiresAt, nil
	}
	if expires.After(by.ExpiresAt) {
		return time.Time{}, errdefs.New(errdefs.Forbidden, "FORBIDDEN", "A key cannot make one that outlives it: this one ends at %s", by.ExpiresAt.Format(time.RFC3339))
	}
	return expires.UTC(), nil
}

// Forbid says which scope a caller lacks.
func Forbid(s Scope) error {
	return errdefs.New(errdefs.Forbidden, "FORBIDDEN", "The API key lacks the scope %s", s)
}

// Get returns the record of a key, or errdefs.NotFound.
func (k *Keyring) Get(ctx context.Context, id KeyID) (Key, error) {
	key, err := k.store.Key(ctx, id)
	if err != nil {
		return Key{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh(&key)
	return key, nil
}

// List returns the newest keys first, revoked and expired ones too, and how
// many there are without limit and offset. A limit of 0 means all.
func (k *Keyring) List(ctx context.Context, limit, offset int) ([]Key, int, error) {
	list, total, err := k.store.Keys(ctx, limit, offset)
	if err != nil {
		return nil, 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range list {
		k.refresh(&list[i])
	}
	return list, total, nil
}

// refresh fills in a use that is not written yet. It needs mu.
func (k *Keyring) refresh(key *Key) {
	if e := k.byID[key.ID]; e != nil {
		key.LastUsedAt = e.LastUsedAt
	}
}

// Revoke ends a key for good; its record stays. Once it has returned the key
// opens nothing. A key that was revoked already is left as it is; an unknown
// one is errdefs.NotFound.
func (k *Keyring) Revoke(ctx context.Context, id KeyID) error {
	ctx, unlock, err := k.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := k.store.RevokeKey(ctx, id, time.Now().UTC()); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.byID[id]; e != nil {
		k.drop(e)
	}
	return nil
}

// lock makes the caller the only one to change keys, so that store and memory
// change in the same order. The context that it returns bounds the change.
func (k *Keyring) lock(ctx context.Context) (context.Context, func(), error) {
	select {
	case k.change <- struct{}{}:
	case <-ctx.Done():
		return ctx, nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), changeTimeout)
	return ctx, func() { cancel(); <-k.change }, nil
}

func (k *Keyring) has(id KeyID) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.byID[id] != nil
}

// add needs mu, or nobody else who knows k.
func (k *Keyring) add(key Key) {
	e := &entry{Key: key}
	k.byHash[key.Hash], k.byID[key.ID] = e, e
}

// drop makes a key open nothing. A use of it that is pending is written all the
// same. It needs mu.
func (k *Keyring) drop(e *entry) {
	delete(k.byHash, e.Hash)
	delete(k.byID, e.ID)
}
