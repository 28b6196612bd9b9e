package hyperfleet

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// The scopes of a key. None implies another, except by a star.
const (
	ScopeAll           = "*"
	ScopeMachinesAll   = "machines:*"
	ScopeMachinesRead  = "machines:read"  // see machines and their consoles
	ScopeMachinesWrite = "machines:write" // create, start, stop, delete
	ScopeMachinesExec  = "machines:exec"  // run commands and move files, in and out
	ScopeImagesAll     = "images:*"
	ScopeImagesRead    = "images:read"
	ScopeImagesWrite   = "images:write" // pull, import, delete
	ScopeKeysAll       = "keys:*"
	ScopeKeysRead      = "keys:read"
	ScopeKeysWrite     = "keys:write" // create and revoke
)

// Key is the record of an API key. It does not hold the key itself, which
// nobody but its owner has.
type Key struct {
	ID         string     `json:"id" doc:"Names the key; no secret"`
	Name       string     `json:"name"`
	KeyPrefix  string     `json:"key_prefix" doc:"How the key begins, to tell keys apart"`
	Scopes     []string   `json:"scopes" doc:"What the key may do"`
	ExpiresAt  *time.Time `json:"expires_at" doc:"Refused from then on; null for never"`
	LastUsedAt *time.Time `json:"last_used_at" doc:"Null when it was never used"`
	CreatedAt  time.Time  `json:"created_at"`
	RevokedAt  *time.Time `json:"revoked_at" doc:"Refused since then"`
}

// CreatedKey is a new key with its record. It prints without the key.
type CreatedKey struct {
	Key

	Secret string `json:"key" doc:"The key itself: it is told this once"`
}

// String redacts the key.
func (k CreatedKey) String() string { return "API key " + k.ID + " [redacted]" }

// GoString redacts the key.
func (k CreatedKey) GoString() string { return k.String() }

// CreateKeyRequest asks for a key.
type CreateKeyRequest struct {
	Name string `json:"name" minLength:"1" maxLength:"255" doc:"For people; need not be unique"`
	// Scopes are what the key may do; none means everything.
	Scopes []string `json:"scopes,omitempty" maxItems:"32" enum:"machines:read,machines:write,machines:exec,machines:*,images:read,images:write,images:*,keys:read,keys:write,keys:*,*" doc:"What the key may do; none means everything"`
	// ExpiresAt is when the key is refused; nil means when the key does that
	// asks for it.
	ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Refused from then on; absent means when the key does that asks for it, which is never for most"`
}

// CreateKey makes an API key. A caller cannot give what it has not: scopes that
// its own key lacks are ErrForbidden.
func (c *Client) CreateKey(ctx context.Context, req CreateKeyRequest) (CreatedKey, error) {
	var k CreatedKey
	err := c.do(ctx, call{method: http.MethodPost, path: "/keys", in: req}, &k)
	return k, err
}

// ListKeysOptions narrows a list. Its zero value lists everything.
type ListKeysOptions struct {
	Limit  int // 0 means all
	Offset int
}

// ListKeys lists API keys, the newest first, revoked and expired ones too.
func (c *Client) ListKeys(ctx context.Context, o ListKeysOptions) ([]Key, error) {
	query := url.Values{}
	if o.Limit > 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.Offset > 0 {
		query.Set("offset", strconv.Itoa(o.Offset))
	}
	var list []Key
	err := c.do(ctx, call{method: http.MethodGet, path: "/keys", query: query}, &list)
	return list, err
}

// keyPage is how many keys Keys asks for at a time.
const keyPage = 100

// Keys goes through all API keys, the newest first, a page at a time. An error
// is the last thing that it yields. Keys that come to be meanwhile may push
// one onto the next page, where it is seen again.
func (c *Client) Keys(ctx context.Context) iter.Seq2[Key, error] {
	return func(yield func(Key, error) bool) {
		for offset := 0; ; offset += keyPage {
			list, err := c.ListKeys(ctx, ListKeysOptions{Limit: keyPage, Offset: offset})
			if err != nil {
				yield(Key{}, err)
				return
			}
			for _, k := range list {
				if !yield(k, nil) {
					return
				}
			}
			if len(list) < keyPage {
				return
			}
		}
	}
}

// Key returns the record of one API key.
func (c *Client) Key(ctx context.Context, id string) (Key, error) {
	var k Key
	err := c.do(ctx, call{method: http.MethodGet, path: keyPath(id)}, &k)
	return k, err
}

// RevokeKey ends an API key for good: once it has returned the key opens
// nothing. The record stays.
func (c *Client) RevokeKey(ctx context.Context, id string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: keyPath(id)}, nil)
}

func keyPath(id string) string { return "/keys/" + url.PathEscape(id) }
