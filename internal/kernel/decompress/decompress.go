// Package decompress reads streams whose compression is found from their first
// bytes: what kernels, modules and Debian packages are packed with. It knows
// gzip, xz (with the x86 filter that kernels use), zstd, bzip2 and the legacy
// LZ4 frame. Writing, and image layers, are not here. Callers are the kernel
// package and its sub-packages. The input may be hostile: windows are bounded,
// and callers bound the output. All functions are safe for concurrent use;
// one Reader serves one goroutine.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// MagicLen is how many bytes Detect wants to see, at most.
const MagicLen = 6

// maxWindow bounds what one stream makes a decoder allocate. Kernels are
// packed with zstd --ultra -22, whose window is 128 MiB at most (Linux,
// scripts/Makefile.lib).
const maxWindow = 128 << 20

// Format is a compression.
type Format string

// The formats that Detect tells apart. Those that NewReader cannot read are
// there to be named in an error.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	XZ    Format = "xz"
	Zstd  Format = "zstd"
	Bzip2 Format = "bzip2"
	LZ4   Format = "lz4" // legacy frame, as the kernel's build makes
	LZMA  Format = "lzma"
	LZO   Format = "lzo"
)

// magics are the first bytes of each format, as in Linux lib/decompress.c.
var magics = []struct {
	format Format
	magic  string
}{
	{Gzip, "\x1f\x8b"},
	{Gzip, "\x1f\x9e"},
	{Bzip2, "BZh"},
	{LZMA, "\x5d\x00"},
	{XZ, "\xfd7zXZ\x00"},
	{LZO, "\x89LZO"},
	{LZ4, "\x02\x21\x4c\x18"},
	{Zstd, "\x28\xb5\x2f\xfd"},
}

// Detect returns the compression that head, the first bytes of a stream,
// belongs to, or None.
func Detect(head []byte) Format {
	for _, m := range magics {
		if bytes.HasPrefix(head, []byte(m.magic)) {
			return m.format
		}
	}
	return None
}

// NewReader returns what r decompresses to; what r holds must be of the format.
// None passes r through. What follows the first gzip member is not read. The
// caller closes the reader, which does not close r.
func NewReader(r io.Reader, f Format) (io.ReadCloser, error) {
	switch f {
	case None:
		return io.NopCloser(r), nil
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("read gzip header: %w", err)
		}
		z.Multistream(false)
		return z, nil
	case XZ:
		z, err := xz.NewReader(r, maxWindow)
		if err != nil {
			return nil, fmt.Errorf("read xz header: %w", err)
		}
		return io.NopCloser(z), nil
	case Zstd:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("read zstd header: %w", err)
		}
		return z.IOReadCloser(), nil
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case LZ4:
		return io.NopCloser(newLegacyLZ4(r)), nil
	default:
		return nil, fmt.Errorf("%s compression: %w", f, errors.ErrUnsupported)
	}
}

// Auto returns what r decompresses to by the magic it starts with, or r's own
// bytes when it starts with none.
func Auto(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(MagicLen)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read magic: %w", err)
	}
	return NewReader(b, Detect(head))
}
