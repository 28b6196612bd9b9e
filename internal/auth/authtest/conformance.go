package authtest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// TestStore is the conformance suite of auth.Store. open returns a new, empty
// store, and sees to its end.
func TestStore(t *testing.T, open func(t *testing.T) auth.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s auth.Store)
	}{
		{"key round trip", testRoundTrip},
		{"a key is there once", testUnique},
		{"unknown key", testUnknown},
		{"list", testList},
		{"the first revocation stands", testRevoke},
		{"the last use stands", testTouch},
		{"ended context", testEndedContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var storeTime = time.Date(2026, 2, 3, 4, 5, 6, 789, time.UTC)

func full(id auth.KeyID) auth.Key {
	secret := auth.NewSecret()
	return auth.Key{
		ID: id, Name: "näme \"quoted\"", Hash: secret.Hash(), Prefix: secret.Prefix(),
		Scopes:    auth.Scopes{auth.MachinesRead, auth.KeysAll},
		CreatedAt: storeTime, ExpiresAt: storeTime.Add(time.Hour), LastUsedAt: storeTime.Add(time.Minute), RevokedAt: storeTime.Add(time.Second),
	}
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustInsert(t *testing.T, s auth.Store, k auth.Key) auth.Key {
	t.Helper()
	mustDo(t, s.CreateKey(t.Context(), k))
	return k
}

func requireKind(t *testing.T, err error, kind errdefs.Kind) {
	t.Helper()
	if !errdefs.Is(err, kind) {
		t.Fatalf("error %v is %s, want %s", err, errdefs.KindOf(err), kind)
	}
}

func requireKey(t *testing.T, s auth.Store, want auth.Key) {
	t.Helper()
	got, err := s.Key(t.Context(), want.ID)
	mustDo(t, err)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("key (-want +got):\n%s", diff)
	}
}

func testRoundTrip(t *testing.T, s auth.Store) {
	requireKey(t, s, mustInsert(t, s, full("a")))
	bare := auth.Key{ID: "b", Name: "b", Hash: auth.Secret("b").Hash(), Scopes: auth.Scopes{}, CreatedAt: storeTime}
	requireKey(t, s, mustInsert(t, s, bare))
}

func testUnique(t *testing.T, s auth.Store) {
	k := mustInsert(t, s, full("a"))
	requireKind(t, s.CreateKey(t.Context(), full("a")), errdefs.Conflict)
	same := full("b")
	same.Hash = k.Hash
	requireKind(t, s.CreateKey(t.Context(), same), errdefs.Conflict)
	requireKey(t, s, k)
}

func testUnknown(t *testing.T, s auth.Store) {
	_, err := s.Key(t.Context(), "x")
	requireKind(t, err, errdefs.NotFound)
	requireKind(t, s.RevokeKey(t.Context(), "x", storeTime), errdefs.NotFound)
	mustDo(t, s.TouchKeys(t.Context(), map[auth.KeyID]time.Time{"x": storeTime}))
}

func testList(t *testing.T, s auth.Store) {
	list, total, err := s.Keys(t.Context(), 0, 0)
	mustDo(t, err)
	if list == nil || len(list) != 0 || total != 0 {
		t.Errorf("empty store: %v, %d", list, total)
	}
	for _, id := range []auth.KeyID{"a", "b", "c", "d", "e"} {
		mustInsert(t, s, full(id))
	}
	for _, c := range []struct {
		limit, offset int
		want          string
	}{{0, 0, "edcba"}, {2, 0, "ed"}, {2, 2, "cb"}, {0, 4, "a"}, {3, 9, ""}} {
		list, total, err := s.Keys(t.Context(), c.limit, c.offset)
		mustDo(t, err)
		var ids strings.Builder
		for _, k := range list {
			ids.WriteString(string(k.ID))
		}
		if ids.String() != c.want || total != 5 || list == nil {
			t.Errorf("limit %d, offset %d: %q of %d, want %q of 5", c.limit, c.offset, ids.String(), total, c.want)
		}
	}
}

func testRevoke(t *testing.T, s auth.Store) {
	k := full("a")
	k.RevokedAt = time.Time{}
	mustInsert(t, s, k)
	other := mustInsert(t, s, full("b"))
	k.RevokedAt = storeTime.Add(5)
	mustDo(t, s.RevokeKey(t.Context(), "a", k.RevokedAt))
	mustDo(t, s.RevokeKey(t.Context(), "a", k.RevokedAt.Add(time.Hour)))
	requireKey(t, s, k)
	requireKey(t, s, other)
}

func testTouch(t *testing.T, s auth.Store) {
	used, late := mustInsert(t, s, full("a")), mustInsert(t, s, full("b"))
	unused := full("c")
	unused.LastUsedAt = time.Time{}
	mustInsert(t, s, unused)
	now := storeTime.Add(time.Hour)
	mustDo(t, s.TouchKeys(t.Context(), map[auth.KeyID]time.Time{"a": now, "b": storeTime, "c": now, "nosuch": now}))
	mustDo(t, s.TouchKeys(t.Context(), nil))
	used.LastUsedAt, unused.LastUsedAt = now, now
	requireKey(t, s, used)
	requireKey(t, s, late)
	requireKey(t, s, unused)
}

func testEndedContext(t *testing.T, s auth.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.CreateKey(ctx, full("a")); err == nil {
		t.Error("create with an ended context succeeded")
	}
	_, err := s.Key(t.Context(), "a")
	requireKind(t, err, errdefs.NotFound)
}
