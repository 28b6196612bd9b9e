package authtest_test

import (
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/auth/authtest"
)

func TestFakeStore(t *testing.T) {
	authtest.TestStore(t, func(*testing.T) auth.Store { return authtest.NewStore() })
}
