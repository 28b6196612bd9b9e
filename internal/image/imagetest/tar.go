// Package imagetest makes images for tests: layers from lists of entries,
// images and OCI layouts from layers, and a registry inside the process whose
// answers a test can spoil.
//
// Everything ends with the test that made it. Nothing here is used outside of
// tests.
package imagetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Epoch is the modification time of entries that name no other.
var Epoch = time.Date(2001, 2, 3, 4, 5, 6, 789000000, time.UTC)

// Entry is one member of a layer's archive.
type Entry struct {
	tar.Header
	Body string
}

// File is a regular file of mode 0644.
func File(name, body string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, Body: body}
}

// Program is a regular file of mode 0755.
func Program(name string, body []byte) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, Body: string(body)}
}

// Dir is a directory of mode 0755.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}}
}

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Link is a hard link to an entry that came before, here or in a lower layer.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// Whiteout removes what lower layers have under dir/base. An empty dir is the
// root.
func Whiteout(dir, base string) Entry { return File(under(dir, ".wh."+base), "") }

// Opaque removes all that lower layers have in dir.
func Opaque(dir string) Entry { return File(under(dir, ".wh..wh..opq"), "") }

func under(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// Tar returns an uncompressed layer. Sizes, formats and missing times are
// filled in.
func Tar(tb testing.TB, entries ...Entry) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.Body))
		if h.ModTime.IsZero() {
			h.ModTime = Epoch
		}
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatalf("write header of %q: %v", h.Name, err)
		}
		if _, err := w.Write([]byte(e.Body)); err != nil {
			tb.Fatalf("write body of %q: %v", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatalf("close archive: %v", err)
	}
	return buf.Bytes()
}

// Gzip compresses b.
func Gzip(tb testing.TB, b []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(b); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// Zstd compresses b.
func Zstd(tb testing.TB, b []byte) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return w.EncodeAll(b, nil)
}
