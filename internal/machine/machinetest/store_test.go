package machinetest_test

import (
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestFakeStore(t *testing.T) {
	machinetest.TestStore(t, func(*testing.T) machine.Store { return machinetest.NewStore() })
}
