//go:build vm

package qemu_test

import (
	"os"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/vmm/qemu"
	"github.com/hyperfleet/hyperfleet/internal/vmm/vmmtest"
)

func TestMain(m *testing.M) { os.Exit(vmmtest.Main(m, newDriver)) }

func newDriver() machine.Driver { return qemu.New(qemu.Options{}) }

func TestConformance(t *testing.T) {
	files, err := kerneltest.Make(t.Context(), vmmtest.TestInit)
	if err != nil {
		t.Fatal(err)
	}
	vmmtest.Run(t, vmmtest.Suite{New: newDriver, Files: files, UIDBase: 990000})
}
