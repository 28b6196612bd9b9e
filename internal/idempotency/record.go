package idempotency

import (
	"context"
	"crypto/sha256"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	// Lifetime is how long a result is kept.
	Lifetime = 24 * time.Hour
	// MaxBody is the largest body of a result that is kept, in bytes.
	MaxBody = 1 << 20

	maxKeyLen = 255
)

// Key names a request of a caller. Callers do not see each other's keys.
type Key struct {
	Caller string // id of the caller's API key; "" for local callers
	Value  string // what ParseKey accepts
}

// ParseKey checks a key as it comes from a caller: 1 to 255 printable ASCII
// characters.
func ParseKey(s string) (string, error) {
	good := len(s) >= 1 && len(s) <= maxKeyLen
	for i := 0; good && i < len(s); i++ {
		good = s[i] >= ' ' && s[i] <= '~'
	}
	if !good {
		return "", errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "Idempotency-Key must be 1 to %d printable ASCII characters", maxKeyLen)
	}
	return s, nil
}

// Fingerprint tells one request from another.
type Fingerprint [sha256.Size]byte

// Record is what is kept of a key.
type Record struct {
	Key         Key
	Operation   string // "createMachine"
	Fingerprint Fingerprint
	Reference   string  // what the operation makes, chosen before it begins; may be ""
	Result      *Result // nil: started
	CreatedAt   time.Time
	ExpiresAt   time.Time
}

// Result is the answer to a request.
type Result struct {
	Status  int
	Header  map[string]string
	Body    []byte
	Dropped bool // Body was too large to be kept
}

// Size is what the result takes of the Bounds, in bytes.
func (r Result) Size() int64 {
	size := len(r.Body)
	for name, value := range r.Header {
		size += len(name) + len(value)
	}
	return int64(size)
}

// Bounds limit the finished records that a Store keeps.
type Bounds struct {
	CallerRecords, Records int   // of one caller, of all
	CallerBytes, Bytes     int64 // of their results
}

// DefaultBounds let a caller send a request every nine seconds for a day, with
// an answer of 6 KiB, before its oldest results are displaced.
func DefaultBounds() Bounds {
	return Bounds{CallerRecords: 10_000, Records: 100_000, CallerBytes: 64 << 20, Bytes: 512 << 20}
}

// Store keeps records. The implementation is package store. Every method is one
// transaction; it is durable when the method returns.
type Store interface {
	// StartRequest inserts r, which has no result. A record of its key that has
	// not expired by r.CreatedAt is left as it is and returned, with found set.
	StartRequest(ctx context.Context, r Record) (existing Record, found bool, err error)
	// FinishRequest gives the key's record its result, and removes finished
	// records, the oldest first, until the bounds hold: those of the caller, and
	// for all of the caller who has the most bytes. The record of an unknown key
	// is errdefs.NotFound.
	FinishRequest(ctx context.Context, k Key, r Result, b Bounds) error
	// ForgetRequest removes the key's record, if there is one.
	ForgetRequest(ctx context.Context, k Key) error
	// PruneRequests removes what has expired by now.
	PruneRequests(ctx context.Context, now time.Time) error
}
