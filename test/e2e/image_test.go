//go:build vm

package e2e

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

// busyboxImage is the name that ImportBusybox gives its image.
const busyboxImage = "localhost/busybox:test"

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

// ImportBusybox gives the host a small image without any registry.
func (h *Host) ImportBusybox() string {
	h.t.Helper()
	archive, err := busyboxArchive()
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.ImportImage(h.t.Context(), busyboxImage, bytes.NewReader(archive)); err != nil {
		h.t.Fatalf("import: %v", err)
	}
	return busyboxImage
}

// NewHostWithImage is NewHost with the busybox image.
func NewHostWithImage(t *testing.T, env ...string) (*Host, string) {
	t.Helper()
	h := NewHost(t, env...)
	return h, h.ImportBusybox()
}
