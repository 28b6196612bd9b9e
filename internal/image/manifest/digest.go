package manifest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"hash"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Digest names content by its hash: "sha256:" or "sha512:" and lower-case
// hexadecimal digits. A Digest that was made by ParseDigest or Of is safe as a
// part of a file name.
type Digest string

// ParseDigest checks s and returns it as a Digest; INVALID_DIGEST otherwise.
func ParseDigest(s string) (Digest, error) {
	algorithm, digits, _ := strings.Cut(s, ":")
	size := map[string]int{"sha256": sha256.Size, "sha512": sha512.Size}[algorithm]
	if size == 0 || len(digits) != 2*size || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", errdefs.New(errdefs.Invalid, "INVALID_DIGEST", "%.150q is no sha256 or sha512 digest", s)
	}
	return Digest(s), nil
}

// Of returns the sha256 digest of b.
func Of(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// Sum returns the digest that h, a sha256 hash, has come to.
func Sum(h hash.Hash) Digest {
	return Digest("sha256:" + hex.EncodeToString(h.Sum(nil)))
}

// NewHash returns a new hash of d's algorithm.
func (d Digest) NewHash() hash.Hash {
	if strings.HasPrefix(string(d), "sha512:") {
		return sha512.New()
	}
	return sha256.New()
}

// Hex returns the digits.
func (d Digest) Hex() string {
	_, digits, _ := strings.Cut(string(d), ":")
	return digits
}

// Matches reports whether h, made by d.NewHash, has come to d.
func (d Digest) Matches(h hash.Hash) bool {
	return d.Hex() == hex.EncodeToString(h.Sum(nil))
}

// UnmarshalText makes JSON decoding check digests.
func (d *Digest) UnmarshalText(b []byte) error {
	parsed, err := ParseDigest(string(b))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
