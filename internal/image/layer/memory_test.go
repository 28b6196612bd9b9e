package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
)

// TestReadMetadataLimit counts what stays in memory: names, targets,
// attributes.
func TestReadMetadataLimit(t *testing.T) {
	long := strings.Repeat("n", 200)
	attributes := map[string]string{"SCHILY.xattr.user.note": strings.Repeat("v", 50)}
	for name, entry := range map[string]func(i int) imagetest.Entry{
		"names":   func(i int) imagetest.Entry { return imagetest.File(fmt.Sprint(long, i), "") },
		"targets": func(i int) imagetest.Entry { return imagetest.Symlink(fmt.Sprint(i), long) },
		"attributes": func(i int) imagetest.Entry {
			return imagetest.Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprint(i), PAXRecords: attributes}}
		},
	} {
		var entries []imagetest.Entry
		for i := range 90 {
			entries = append(entries, entry(i))
		}
		archive := imagetest.Tar(t, entries...)
		if _, err := read(t, bytes.NewReader(archive), "", "", &counter{}); errdefs.CodeOf(err) != "IMAGE_METADATA_TOO_LARGE" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestReadKeepsNoHeaders reads entries with large PAX headers. What is kept of
// them must not hold the whole header in memory.
func TestReadKeepsNoHeaders(t *testing.T) {
	const entries, size = 24, 512 << 10
	pr, pw := io.Pipe()
	go func() {
		tw := tar.NewWriter(pw)
		for i := range entries {
			h := &tar.Header{
				Typeflag: tar.TypeSymlink, Name: fmt.Sprintf("\u00e9%d", i), Linkname: "\u00e9", Format: tar.FormatPAX,
				PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b", "COMMENT.x": strings.Repeat("x", size)},
			}
			if err := tw.WriteHeader(h); err != nil {
				pw.CloseWithError(err)
				return
			}
		}
		pw.CloseWithError(tw.Close())
	}()
	src := layer.Source{Open: func(context.Context) (io.ReadCloser, error) { return pr, nil }}
	quota := &layer.Quota{MaxBytes: 1 << 30, MaxEntries: entries, MaxDepth: 10, MaxXattrBytes: 100, MaxMetadata: 1 << 20}
	before := heap()
	l, err := layer.Read(t.Context(), src, &counter{}, quota)
	if err != nil {
		t.Fatal(err)
	}
	if grown := heap() - before; grown > entries*size/4 {
		t.Errorf("%d entries keep %d bytes", len(l.Entries), grown)
	}
	runtime.KeepAlive(l)
}

// heap returns the bytes that are in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

// TestReadZstdWindow refuses frames that make a decoder take more memory than
// it may.
func TestReadZstdWindow(t *testing.T) {
	archive := imagetest.Tar(t, imagetest.File("a", "b"))
	for window, code := range map[int]string{8 << 20: "", 32 << 20: "", 64 << 20: "IMAGE_UNSUPPORTED"} {
		var blob bytes.Buffer
		w, err := zstd.NewWriter(&blob, zstd.WithWindowSize(window), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			t.Fatal(err)
		}
		// A flush keeps the writer from choosing a smaller window.
		for _, step := range []func() error{func() error { _, err := w.Write(archive[:512]); return err }, w.Flush, func() error { _, err := w.Write(archive[512:]); return err }, w.Close} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := read(t, &blob, "", "", &counter{}); err == nil && code != "" || err != nil && errdefs.CodeOf(err) != code {
			t.Errorf("window of %d bytes: got %v, want %q", window, err, code)
		}
	}
}

// TestReadDecoders reads many zstd layers at once, and lets those go that wait
// for a decoder behind layers that stand still.
func TestReadDecoders(t *testing.T) {
	blob := imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("a", "b")))
	quota := &layer.Quota{MaxBytes: 1 << 20, MaxEntries: 100, MaxDepth: 10, MaxMetadata: 1 << 20}
	ctx, cancel := context.WithCancelCause(t.Context())
	open := make(chan struct{})
	results := make(chan error, 8)
	for range cap(results) {
		src := layer.Source{Open: func(ctx context.Context) (io.ReadCloser, error) {
			pr, pw := io.Pipe()
			context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
			go func() {
				_, _ = pw.Write(blob[:10])
				<-open
				_, err := pw.Write(blob[10:])
				pw.CloseWithError(err)
			}()
			return pr, nil
		}}
		go func() {
			_, err := layer.Read(ctx, src, &counter{}, quota)
			results <- err
		}()
	}
	reason := errors.New("enough")
	cancel(reason)
	for range cap(results) {
		if err := <-results; !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	close(open)
	for range 3 { // no place was lost
		src := layer.Source{Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(blob)), nil }}
		if _, err := layer.Read(t.Context(), src, &counter{}, quota); err != nil {
			t.Error(err)
		}
	}
}
