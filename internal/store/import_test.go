package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func importedKey(id, secret string) auth.Key {
	return auth.Key{ID: auth.KeyID(id), Name: id, Hash: auth.Secret(secret).Hash(), Scopes: auth.Scopes{auth.All}, CreatedAt: time.Unix(1, 0).UTC()}
}

// A second import finds everything there, and leaves what has become of it.
func TestImportTwice(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	machines := []machine.Machine{*newMachine("a"), *newMachine("b")}
	keys := []auth.Key{importedKey("k", "one"), importedKey("l", "two")}
	done, err := s.Import(t.Context(), machines, keys, false)
	if err != nil || !done.Machines["a"] || !done.Machines["b"] || !done.Keys["k"] || !done.Keys["l"] {
		t.Fatalf("%+v, %v", done, err)
	}
	changed, err := s.Machine(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	changed.State = machine.Failed
	if err := s.UpdateMachine(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if err := s.RevokeKey(t.Context(), "k", time.Unix(2, 0)); err != nil {
		t.Fatal(err)
	}
	done, err = s.Import(t.Context(), machines, keys, false)
	if err != nil || done.Machines["a"] || done.Machines["b"] || done.Keys["k"] || done.Keys["l"] {
		t.Errorf("second import %+v, %v", done, err)
	}
	if m, err := s.Machine(t.Context(), "a"); err != nil || m.State != machine.Failed {
		t.Errorf("machine %+v, %v", m, err)
	}
	if k, err := s.Key(t.Context(), "k"); err != nil || k.RevokedAt.IsZero() {
		t.Errorf("an import has brought back a revoked key: %+v, %v", k, err)
	}
	slots := map[int]bool{}
	list, total, err := s.Machines(t.Context(), machine.Filter{})
	for _, m := range list {
		slots[m.Slot] = true
	}
	if err != nil || total != 2 || len(slots) != 2 {
		t.Errorf("%d machines in slots %v, %v", total, slots, err)
	}
}

// One key in conflict is the end of the whole import, unless it is to be left
// out: it never takes another's id or hash.
func TestImportConflict(t *testing.T) {
	for name, conflicting := range map[string]auth.Key{
		"id":   importedKey("mine", "other secret"),
		"hash": importedKey("other", "secret"),
	} {
		t.Run(name, func(t *testing.T) {
			s := mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
			if err := s.CreateKey(t.Context(), importedKey("mine", "secret")); err != nil {
				t.Fatal(err)
			}
			machines, keys := []machine.Machine{*newMachine("a")}, []auth.Key{importedKey("new", "new"), conflicting}
			if _, err := s.Import(t.Context(), machines, keys, false); !errdefs.Is(err, errdefs.Conflict) {
				t.Errorf("error %v", err)
			}
			if _, total, err := s.Machines(t.Context(), machine.Filter{}); err != nil || total != 0 {
				t.Errorf("%d machines are left of an import that failed, %v", total, err)
			}
			if _, total, err := s.Keys(t.Context(), 0, 0); err != nil || total != 1 {
				t.Errorf("%d keys after an import that failed, %v", total, err)
			}
			done, err := s.Import(t.Context(), machines, keys, true)
			if err != nil || !done.Machines["a"] || !done.Keys["new"] || done.Keys[conflicting.ID] || done.Conflicts[conflicting.ID] == nil {
				t.Errorf("%+v, %v", done, err)
			}
			if k, err := s.Key(t.Context(), "mine"); err != nil || k.Hash != auth.Secret("secret").Hash() {
				t.Errorf("the key that was there: %+v, %v", k, err)
			}
		})
	}
}
