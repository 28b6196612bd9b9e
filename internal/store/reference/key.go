package reference

import (
	"encoding/json"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hyperfleet/hyperfleet/internal/auth"
)

var keyTable = table{"api_keys", []string{
	"id", "name", "key_hash", "key_prefix", "scopes", "expires_at", "last_used_at", "created_at", "revoked_at",
}}

const maxKeyName = 255 // characters

var keyID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,40}$`)

// readKey makes a key that opens what it opened: its hash is made in the same
// way here.
func readKey(r row) Record[auth.Key] {
	k := auth.Key{
		ID: auth.KeyID(r.text("id")), Name: r.text("name"), Prefix: r.text("key_prefix"), Scopes: r.scopes(),
		CreatedAt: r.time("created_at"), ExpiresAt: r.time("expires_at"),
		LastUsedAt: r.time("last_used_at"), RevokedAt: r.time("revoked_at"),
	}
	var err error
	if k.Hash, err = auth.ParseHash(r.text("key_hash")); err != nil {
		r.fail("key_hash is no SHA-256 in hexadecimal")
	}
	if !keyID.MatchString(string(k.ID)) {
		r.fail("id is not 1 to 40 letters, digits, _ and -")
	}
	if utf8.RuneCountInString(k.Name) > maxKeyName || strings.ContainsFunc(k.Name, unicode.IsControl) {
		r.fail("name is not at most %d printable characters", maxKeyName)
	}
	if len(k.Prefix) > 32 || strings.ContainsFunc(k.Prefix, unicode.IsControl) {
		r.fail("key_prefix is not the beginning of a key")
	}
	if r.values["created_at"] == nil {
		r.fail("created_at is NULL")
	}
	return Record[auth.Key]{ID: label(r.values["id"]), Name: label(r.values["name"]), Value: k, Notes: r.notes, Err: r.err}
}

// scopes drops what there is not here: it must not become more than it was.
func (r *row) scopes() auth.Scopes {
	var names []string
	if json.Unmarshal([]byte(r.text("scopes")), &names) != nil {
		r.fail("scopes is no JSON array of texts")
		return nil
	}
	list := auth.Scopes{}
	for _, name := range names {
		scope, err := auth.ParseScope(name)
		if err != nil {
			r.note("the scope %s is unknown here and dropped", label(name))
			continue
		}
		list = append(list, scope)
	}
	if len(list) == 0 {
		r.note("it has no scope that there is here, and opens nothing; the reference did not look at scopes")
	}
	return list
}
