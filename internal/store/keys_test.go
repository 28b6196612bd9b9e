package store_test

import (
	"path/filepath"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/auth/authtest"
)

func TestKeyStoreConformance(t *testing.T) {
	authtest.TestStore(t, func(t *testing.T) auth.Store {
		return mustOpen(t, filepath.Join(t.TempDir(), "test.db"))
	})
}
