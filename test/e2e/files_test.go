//go:build vm

package e2e

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

func readFile(t *testing.T, h *hosttest.Host, m hyperfleet.Machine, path string) string {
	t.Helper()
	r, _, err := h.ReadFile(t.Context(), m.ID, path)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(b)
}

// A gigabyte goes in and out of a guest with an eighth of that memory, and the
// daemon holds none of it.
func TestGigabyteFile(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("big", image, func(r *hyperfleet.CreateMachineRequest) { r.ImageSizeMiB = 1600 })
	const size = 1 << 30
	want := sumOf(t, pattern(size))
	h.ResetRSS()
	before := h.DaemonRSS()
	n, err := h.WriteFile(t.Context(), m.ID, "/root/big", 0o644, pattern(size))
	if err != nil || n != size {
		t.Fatalf("wrote %d bytes: %v", n, err)
	}
	r, info, err := h.ReadFile(t.Context(), m.ID, "/root/big")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if info.Size != size {
		t.Errorf("size %d, want %d", info.Size, size)
	}
	if got := sumOf(t, r); got != want {
		t.Errorf("other bytes came back")
	}
	grown := h.DaemonRSS() - before
	t.Logf("daemon grew by %d KiB for a file of %d MiB in and out", grown>>10, size>>20)
	if grown > 32<<20 {
		t.Errorf("daemon grew by %d MiB", grown>>20)
	}
}

func TestBrokenUploadLeavesOldFile(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("atomic", image)
	if _, err := h.WriteFile(t.Context(), m.ID, "/root/f", 0o640, strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the caller died")
	_, err := h.WriteFile(t.Context(), m.ID, "/root/f", 0o640, io.MultiReader(pattern(8<<20), failing{broken}))
	if err == nil {
		t.Fatal("an upload that broke gave no error")
	}
	if got := readFile(t, h, m, "/root/f"); got != "old" {
		t.Errorf("the file holds %d bytes after a broken upload, want the old ones", len(got))
	}
	if got := h.Output(m, "ls", "-A", "/root"); strings.Count(got, "\n") != 1 {
		t.Errorf("a temporary file is left: %q", got)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestFileCalls(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	m := h.Start("files", image)
	ctx := t.Context()
	if err := h.Mkdir(ctx, m.ID, "/root/a/b", 0o750, true); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteFile(ctx, m.ID, `/root/a/b/"odd" name`, 0o600, strings.NewReader("x\x00y")); err != nil {
		t.Fatal(err)
	}
	info, err := h.Stat(ctx, m.ID, `/root/a/b/"odd" name`)
	if err != nil || info.Size != 3 || info.Mode != "600" || info.IsDir {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if err := h.RenameFile(ctx, m.ID, `/root/a/b/"odd" name`, "/root/a/plain"); err != nil {
		t.Fatal(err)
	}
	list, err := h.ListFiles(ctx, m.ID, "/root/a")
	if err != nil || len(list) != 2 {
		t.Errorf("list: %+v, %v", list, err)
	}
	if err := h.RemoveFile(ctx, m.ID, "/root/a", true); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Stat(ctx, m.ID, "/root/a"); !errors.Is(err, hyperfleet.ErrNotFound) {
		t.Errorf("stat of a removed folder: %v, want ErrNotFound", err)
	}
	if got := readFile(t, h, m, "/proc/version"); !strings.HasPrefix(got, "Linux") {
		t.Errorf("/proc/version reads %q", got)
	}
}
