package idempotencytest

import (
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/idempotency"
)

func TestStoreInMemory(t *testing.T) {
	TestStore(t, func(*testing.T) idempotency.Store { return NewStore() })
}
