//go:build vm

package qemu

import (
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
	"github.com/hyperfleet/hyperfleet/internal/vmm/vmmtest"
)

func TestConformance(t *testing.T) {
	files, err := kerneltest.Make(t.Context(), vmmtest.TestInit)
	if err != nil {
		t.Fatal(err)
	}
	vmmtest.Run(t, vmmtest.Suite{New: newDriver, Files: files, UIDBase: 990000})
}
