package hosttest

import (
	"archive/tar"
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/busybox"
)

// BusyboxImage is the name that ImportBusybox gives its image.
const BusyboxImage = "localhost/busybox:test"

var busyboxArchive = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "hf-busybox-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	layout := filepath.Join(dir, "layout")
	if err := busybox.WriteLayout(context.Background(), layout, busybox.Options{}); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.AddFS(os.DirFS(layout)); err != nil {
		return nil, err
	}
	return buf.Bytes(), w.Close()
})

// BusyboxArchive is the path of a small image as an archive.
func BusyboxArchive(t testing.TB) string {
	t.Helper()
	archive, err := busyboxArchive()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "busybox.tar")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// ImportBusybox gives the host a small image without any registry.
func (h *Host) ImportBusybox() string {
	h.t.Helper()
	archive, err := busyboxArchive()
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.ImportImage(h.t.Context(), BusyboxImage, bytes.NewReader(archive)); err != nil {
		h.t.Fatalf("import: %v", err)
	}
	return BusyboxImage
}

// NewWithImage is New with the busybox image, whose name it returns.
func NewWithImage(t testing.TB, env ...string) (*Host, string) {
	t.Helper()
	h := New(t, env...)
	return h, h.ImportBusybox()
}
