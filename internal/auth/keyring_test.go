package auth_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/auth/authtest"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func mustOpen(t *testing.T, s auth.Store, o auth.Options) *auth.Keyring {
	t.Helper()
	k, err := auth.Open(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func mustCreate(t *testing.T, k *auth.Keyring, req auth.CreateRequest) (auth.Key, auth.Secret) {
	t.Helper()
	key, secret, err := k.Create(t.Context(), auth.LocalCaller(), req)
	if err != nil {
		t.Fatal(err)
	}
	return key, secret
}

// requireRefused takes ErrUnauthorized as the only answer.
func requireRefused(t *testing.T, k *auth.Keyring, s auth.Secret) {
	t.Helper()
	if c, err := k.Authenticate(s); !errors.Is(err, auth.ErrUnauthorized) || c.Allows(auth.MachinesRead) || c.KeyID != "" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestAuthenticateKnowsItsKeys(t *testing.T) {
	k := mustOpen(t, authtest.NewStore(), auth.Options{})
	key, secret := mustCreate(t, k, auth.CreateRequest{Name: "ci", Scopes: auth.Scopes{auth.MachinesRead}})
	mustCreate(t, k, auth.CreateRequest{Name: "other", Scopes: auth.Scopes{auth.All}})
	c, err := k.Authenticate(secret)
	if err != nil || c.KeyID != key.ID || c.Name != "ci" || c.Local || !c.Allows(auth.MachinesRead) || c.Allows(auth.MachinesWrite) {
		t.Errorf("%+v, %v", c, err)
	}
	for _, wrong := range []auth.Secret{"", "hf_", secret[:34], secret + "x", auth.Secret(strings.ToUpper(secret.Reveal())), auth.Secret(key.Hash.String()), auth.Secret(key.ID), auth.NewSecret(), auth.Secret(strings.Repeat("x", 1<<20))} {
		requireRefused(t, k, wrong)
	}
}

func TestDefect21KeysExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := mustOpen(t, authtest.NewStore(), auth.Options{})
		_, secret := mustCreate(t, k, auth.CreateRequest{Name: "a", Scopes: auth.Scopes{auth.All}, ExpiresAt: time.Now().Add(time.Hour)})
		time.Sleep(time.Hour - 1)
		if _, err := k.Authenticate(secret); err != nil || !k.HasUsable() {
			t.Errorf("a nanosecond before its end: %v", err)
		}
		time.Sleep(time.Nanosecond)
		requireRefused(t, k, secret)
		if k.HasUsable() {
			t.Error("an expired key counts as usable")
		}
		_, _, err := k.Create(t.Context(), auth.LocalCaller(), auth.CreateRequest{Name: "b", ExpiresAt: time.Now()})
		if !errdefs.Is(err, errdefs.Invalid) {
			t.Errorf("born dead: %v", err)
		}
	})
}

func TestKeysOutliveTheDaemon(t *testing.T) {
	store := authtest.NewStore()
	k := mustOpen(t, store, auth.Options{})
	keep, secret := mustCreate(t, k, auth.CreateRequest{Name: "keep", Scopes: auth.Scopes{auth.ImagesRead}})
	gone, goneSecret := mustCreate(t, k, auth.CreateRequest{Name: "gone", Scopes: auth.Scopes{auth.All}})
	if err := k.Revoke(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	next := mustOpen(t, store, auth.Options{})
	if c, err := next.Authenticate(secret); err != nil || c.KeyID != keep.ID || !c.Allows(auth.ImagesRead) || c.Allows(auth.ImagesWrite) {
		t.Errorf("%+v, %v", c, err)
	}
	requireRefused(t, next, goneSecret)
	list, total, err := next.List(t.Context(), 0, 0)
	if err != nil || total != 2 || list[0].ID != gone.ID || list[0].RevokedAt.IsZero() || !list[1].RevokedAt.IsZero() {
		t.Errorf("%+v, %d, %v", list, total, err)
	}
}

func TestRevokeIsForGood(t *testing.T) {
	k := mustOpen(t, authtest.NewStore(), auth.Options{})
	key, _ := mustCreate(t, k, auth.CreateRequest{Name: "a"})
	for range 2 {
		if err := k.Revoke(t.Context(), key.ID); err != nil {
			t.Error(err)
		}
	}
	if err := k.Revoke(t.Context(), "nosuch"); !errdefs.Is(err, errdefs.NotFound) {
		t.Error(err)
	}
	if _, err := k.Get(t.Context(), "nosuch"); !errdefs.Is(err, errdefs.NotFound) {
		t.Error(err)
	}
}

// No request that begins after Revoke has returned gets through, however many
// are under way.
func TestRevokedKeyIsRefusedAtOnce(t *testing.T) {
	k := mustOpen(t, authtest.NewStore(), auth.Options{FlushEvery: time.Millisecond})
	for range 20 {
		key, secret := mustCreate(t, k, auth.CreateRequest{Name: "a", Scopes: auth.Scopes{auth.All}})
		var revoked, stop atomic.Bool
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !stop.Load() {
					late := revoked.Load()
					if _, err := k.Authenticate(secret); late && err == nil {
						t.Error("a revoked key opens")
						return
					}
				}
			})
		}
		if err := k.Revoke(t.Context(), key.ID); err != nil {
			t.Error(err)
		}
		revoked.Store(true)
		requireRefused(t, k, secret)
		stop.Store(true)
		wg.Wait()
	}
}

// The reference wrote the database, synchronously, for each request.
func TestDefect24RequestsTouchNoStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		k := mustOpen(t, store, auth.Options{FlushEvery: time.Minute})
		key, secret := mustCreate(t, k, auth.CreateRequest{Name: "a"})
		before := store.Calls()
		for range 1000 {
			if _, err := k.Authenticate(secret); err != nil {
				t.Fatal(err)
			}
			requireRefused(t, k, "hf_wrong")
		}
		first := time.Now()
		if n := store.Calls() - before; n != 0 {
			t.Errorf("%d calls of the store in 2000 requests", n)
		}
		time.Sleep(30 * time.Second)
		last := time.Now()
		if _, err := k.Authenticate(secret); err != nil {
			t.Fatal(err)
		}
		if got, err := k.Get(t.Context(), key.ID); err != nil || !got.LastUsedAt.Equal(last) {
			t.Errorf("before it is written: %v, %v", got.LastUsedAt, err)
		}
		requireStored(t, store, key.ID, time.Time{})
		before = store.Calls()
		time.Sleep(29 * time.Second)
		synctest.Wait()
		if n := store.Calls() - before; n != 0 {
			t.Errorf("written %v after the first use", time.Since(first))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n := store.Calls() - before; n != 1 {
			t.Errorf("%d writes for 1001 uses", n)
		}
		requireStored(t, store, key.ID, last)
	})
}

func requireStored(t *testing.T, store auth.Store, id auth.KeyID, want time.Time) {
	t.Helper()
	if got, err := store.Key(t.Context(), id); err != nil || !got.LastUsedAt.Equal(want) {
		t.Errorf("stored last use %v, want %v (%v)", got.LastUsedAt, want, err)
	}
}

func TestLastUseIsWrittenAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		k := mustOpen(t, store, auth.Options{})
		key, secret := mustCreate(t, k, auth.CreateRequest{Name: "a"})
		gone, goneSecret := mustCreate(t, k, auth.CreateRequest{Name: "used, then revoked"})
		for _, s := range []auth.Secret{secret, goneSecret} {
			if _, err := k.Authenticate(s); err != nil {
				t.Fatal(err)
			}
		}
		if err := k.Revoke(t.Context(), gone.ID); err != nil {
			t.Fatal(err)
		}
		used := time.Now()
		for range 2 {
			if err := k.Close(); err != nil {
				t.Error(err)
			}
		}
		requireStored(t, store, key.ID, used)
		requireStored(t, store, gone.ID, used)
		if _, err := k.Authenticate(secret); err != nil {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestLastUseIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := authtest.NewStore()
		k := mustOpen(t, store, auth.Options{FlushEvery: time.Second})
		key, secret := mustCreate(t, k, auth.CreateRequest{Name: "a"})
		if _, err := k.Authenticate(secret); err != nil {
			t.Fatal(err)
		}
		used := time.Now()
		full := errors.New("no space")
		store.Fail(full)
		time.Sleep(1500 * time.Millisecond)
		store.Fail(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		requireStored(t, store, key.ID, used)
		if _, err := k.Authenticate(secret); err != nil {
			t.Fatal(err)
		}
		store.Fail(full)
		if err := k.Close(); !errors.Is(err, full) {
			t.Errorf("what could not be written is not told: %v", err)
		}
	})
}

func TestCreateGivesNoMoreThanItsCallerHas(t *testing.T) {
	k := mustOpen(t, authtest.NewStore(), auth.Options{})
	end := time.Now().Add(time.Hour)
	_, secret := mustCreate(t, k, auth.CreateRequest{Name: "parent", Scopes: auth.Scopes{auth.KeysAll, auth.MachinesRead}, ExpiresAt: end})
	by, err := k.Authenticate(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		req  auth.CreateRequest
		kind errdefs.Kind // "" for success
		want string
	}{
		{auth.CreateRequest{Scopes: auth.Scopes{auth.MachinesRead, auth.KeysRead}}, "", ""},
		{auth.CreateRequest{Scopes: auth.Scopes{auth.MachinesRead}, ExpiresAt: end}, "", ""},
		{auth.CreateRequest{Scopes: auth.Scopes{auth.MachinesRead, auth.MachinesExec}}, errdefs.Forbidden, "machines:exec"},
		{auth.CreateRequest{Scopes: auth.Scopes{auth.MachinesAll}}, errdefs.Forbidden, "machines:*"},
		{auth.CreateRequest{Scopes: auth.Scopes{auth.All}}, errdefs.Forbidden, "scope *"},
		{auth.CreateRequest{Scopes: auth.Scopes{auth.MachinesRead}, ExpiresAt: end.Add(1)}, errdefs.Forbidden, "outlives"},
	} {
		key, _, err := k.Create(t.Context(), by, c.req)
		if c.kind == "" {
			if err != nil || !key.ExpiresAt.Equal(end) {
				t.Errorf("%+v: expires %v, %v", c.req, key.ExpiresAt, err)
			}
			continue
		}
		if !errdefs.Is(err, c.kind) || !strings.Contains(errdefs.Public(err), c.want) {
			t.Errorf("%+v: %v", c.req, err)
		}
	}
	if _, total, _ := k.List(t.Context(), 0, 0); total != 3 {
		t.Errorf("%d keys, want 3", total)
	}
	if err := k.Revoke(t.Context(), by.KeyID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Create(t.Context(), by, auth.CreateRequest{Scopes: auth.Scopes{auth.MachinesRead}}); !errors.Is(err, auth.ErrUnauthorized) {
		t.Errorf("by a key that was revoked while its request was under way: %v", err)
	}
}

func TestFirstKeyIsTold(t *testing.T) {
	var told int
	store := authtest.NewStore()
	k := mustOpen(t, store, auth.Options{Usable: func() { told++ }})
	if k.HasUsable() || told != 0 {
		t.Error("usable before there is a key")
	}
	store.Fail(errors.New("no space"))
	if _, _, err := k.Create(t.Context(), auth.LocalCaller(), auth.CreateRequest{Name: "a"}); err == nil || told != 0 || k.HasUsable() {
		t.Errorf("a key that is not stored: %v, told %d times", err, told)
	}
	store.Fail(nil)
	mustCreate(t, k, auth.CreateRequest{Name: "a"})
	if !k.HasUsable() || told != 1 {
		t.Errorf("told %d times", told)
	}
}

func TestOpenNeedsTheKeys(t *testing.T) {
	store := authtest.NewStore()
	store.Fail(errors.New("damaged"))
	if k, err := auth.Open(t.Context(), store, auth.Options{}); err == nil || k != nil {
		t.Error("opened without its keys")
	}
}

func TestListPages(t *testing.T) {
	k := mustOpen(t, authtest.NewStore(), auth.Options{})
	var ids []auth.KeyID
	for range 3 {
		key, _ := mustCreate(t, k, auth.CreateRequest{Name: "same"})
		ids = append(ids, key.ID)
	}
	list, total, err := k.List(t.Context(), 1, 1)
	if err != nil || total != 3 || len(list) != 1 || list[0].ID != ids[1] {
		t.Errorf("%+v, %d, %v", list, total, err)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != 3 {
		t.Error("ids repeat")
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	k, err := auth.Open(b.Context(), authtest.NewStore(), auth.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	_, secret, err := k.Create(b.Context(), auth.LocalCaller(), auth.CreateRequest{Name: "a"})
	if err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := k.Authenticate(secret); err != nil {
				b.Error(err)
			}
		}
	})
}
