//go:build vm

package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// TestImagesPrune removes what no machine uses: not what one has booted from,
// nor what one that has never started names.
func TestImagesPrune(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	for name, content := range map[string]string{"localhost/named:1": "a", "localhost/idle:1": strings.Repeat("b", 1<<20)} {
		archive := imagetest.Tar(t, imagetest.File("f", content))
		if _, err := h.ImportImage(t.Context(), name, strings.NewReader(string(archive))); err != nil {
			t.Fatal(err)
		}
	}
	m := h.Start("runs", image)
	pending := h.Create("pending", "localhost/named:1")
	out, stderr, code := h.CLI("image", "ls")
	if code != 0 || strings.Count(out, "\n") != 4 {
		t.Errorf("image ls: %d, %s%s", code, out, stderr)
	}
	idle, err := h.Image(t.Context(), "localhost/idle:1")
	if err != nil {
		t.Fatal(err)
	}
	short := strings.TrimPrefix(idle.Digest, "sha256:")[:12]
	if !strings.Contains(out, short) {
		t.Errorf("image ls does not show %s:\n%s", short, out)
	}
	if got, err := h.Image(t.Context(), short); err != nil || got.Digest != idle.Digest {
		t.Errorf("%s is %s, %v", short, got.Digest, err)
	}
	if res, err := h.PruneImages(t.Context(), time.Hour); err != nil || len(res.Removed) != 0 {
		t.Errorf("pruned of the last hour: %+v, %v", res, err)
	}
	// Neither a crash of the daemon makes it forget what is needed.
	h.KillDaemon()
	h.StartDaemon()
	res, err := h.PruneImages(t.Context(), 0)
	if err != nil || len(res.Removed) != 1 || res.Removed[0].Digest != idle.Digest || res.BytesFreed < 1<<20 {
		t.Fatalf("pruned %+v, %v", res, err)
	}
	if !slices.Equal(res.Removed[0].Refs, []string{"localhost/idle:1"}) {
		t.Errorf("its names were %q", res.Removed[0].Refs)
	}
	if left, _ := filepath.Glob(filepath.Join(h.State, "images/base/*.ext4")); len(left) != 2 {
		t.Errorf("bases: %q", left)
	}
	if err := h.DeleteImage(t.Context(), "localhost/named:1"); !errors.Is(err, hyperfleet.ErrConflict) {
		t.Errorf("delete of an image that a pending machine names: %v", err)
	}
	if _, err := h.RestartMachine(t.Context(), m.ID); err != nil {
		t.Errorf("restart after the prune: %v", err)
	}
	for _, id := range []string{m.ID, pending.ID} {
		if err := h.DeleteMachine(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	out, stderr, code = h.CLI("image", "prune", "-f")
	if code != 0 || strings.Count(out, "\n") != 3 || !strings.HasSuffix(out, " freed\n") {
		t.Errorf("image prune: %d, %s%s", code, out, stderr)
	}
	entries, err := os.ReadDir(filepath.Join(h.State, "images/base"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
