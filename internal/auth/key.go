package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	secretPrefix = "hf_"
	secretBytes  = 24 // 32 characters of base64: 192 bits
	prefixLen    = 11 // characters of a secret that its record shows
	idLen        = 12
)

// KeyID names a key. It is no secret.
type KeyID string

// Key is the record of an API key. Times that are zero have not come, or never
// will.
type Key struct {
	ID         KeyID
	Name       string
	Hash       Hash   // of the secret
	Prefix     string // of the secret, for people to tell keys apart
	Scopes     Scopes
	CreatedAt  time.Time
	ExpiresAt  time.Time // refused from then on
	LastUsedAt time.Time // to within the interval at which uses are written
	RevokedAt  time.Time
}

// usable reports whether the key opens anything at now.
func (k Key) usable(now time.Time) bool {
	return k.RevokedAt.IsZero() && (k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt))
}

// caller is who uses the key.
func (k Key) caller() Caller {
	return Caller{KeyID: k.ID, Name: k.Name, Scopes: k.Scopes, ExpiresAt: k.ExpiresAt}
}

// Hash is the SHA-256 of a secret.
type Hash [sha256.Size]byte

// String is the hash in hexadecimal, as it is stored.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// ParseHash reads what String wrote.
func ParseHash(s string) (h Hash, err error) {
	if hex.DecodedLen(len(s)) != len(h) {
		return h, fmt.Errorf("hash of a key: %d characters, want %d", len(s), hex.EncodedLen(len(h)))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return h, fmt.Errorf("hash of a key: %w", err)
	}
	return h, nil
}

// Secret is the key itself, which only its owner keeps. It prints as
// "[redacted]"; Reveal is the way round that.
type Secret string

// NewSecret makes a random secret.
func NewSecret() Secret {
	var b [secretBytes]byte
	_, _ = rand.Read(b[:]) // never fails
	return Secret(secretPrefix + base64.RawURLEncoding.EncodeToString(b[:]))
}

// Reveal returns the secret, for the one answer that tells it to its owner.
func (s Secret) Reveal() string { return string(s) }

// Hash is what is kept of the secret.
func (s Secret) Hash() Hash { return sha256.Sum256([]byte(s)) }

// Prefix is what people tell keys apart by.
func (s Secret) Prefix() string { return string(s[:min(len(s), prefixLen)]) }

// String redacts the secret.
func (Secret) String() string { return "[redacted]" }

// GoString redacts the secret.
func (Secret) GoString() string { return "[redacted]" }

// MarshalText redacts the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// LogValue redacts the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// newKeyID makes a random id: 60 bits, in lower case and without signs, so
// that it is typed easily.
func newKeyID() KeyID { return KeyID(strings.ToLower(rand.Text()[:idLen])) }

// ErrNotFound says that there is no key of an id. It does not repeat the id,
// which may be a key that somebody took for one.
var ErrNotFound = errdefs.New(errdefs.NotFound, "NOT_FOUND", "API key not found")

// Store keeps keys. The implementation is package store. Every method is one
// transaction; it is durable when the method returns.
type Store interface {
	// CreateKey inserts k. An id or a hash that exists is errdefs.Conflict.
	CreateKey(ctx context.Context, k Key) error
	// Key returns errdefs.NotFound for an unknown id.
	Key(ctx context.Context, id KeyID) (Key, error)
	// Keys lists the newest first, revoked and expired ones too, and counts
	// them without limit and offset. A limit of 0 means all.
	Keys(ctx context.Context, limit, offset int) ([]Key, int, error)
	// RevokeKey sets RevokedAt, unless it is set already: the first stands. It
	// returns errdefs.NotFound for an unknown id.
	RevokeKey(ctx context.Context, id KeyID, at time.Time) error
	// TouchKeys sets LastUsedAt of each key that is not used later already. An
	// unknown id is left out.
	TouchKeys(ctx context.Context, used map[KeyID]time.Time) error
}
