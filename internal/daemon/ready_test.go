package daemon

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
)

func TestReadyTellsEveryMissingPart(t *testing.T) {
	fine := part{"vmm", func(context.Context) error { return nil }}
	if err := ready(t.Context(), []part{fine}); err != nil {
		t.Errorf("all is there: %v", err)
	}
	err := ready(t.Context(), []part{
		{"database", func(context.Context) error { return errors.New("secret path") }},
		fine,
		{"kernel", func(context.Context) error { return kernelThere("", kernel.NewStore(t.TempDir(), "")) }},
	})
	said := errdefs.Public(err)
	if !errdefs.Is(err, errdefs.Unavailable) || errdefs.CodeOf(err) != "NOT_READY" ||
		!strings.Contains(said, "database") || !strings.Contains(said, "hyperfleet setup") ||
		strings.Contains(said, "secret") || strings.Contains(said, "vmm") {
		t.Errorf("said %q, code %s", said, errdefs.CodeOf(err))
	}
}

func TestReadyLooksForTheOperatorsKernel(t *testing.T) {
	if err := kernelThere(filepath.Join(t.TempDir(), "none"), nil); err == nil {
		t.Error("a kernel that is not there is")
	}
}
