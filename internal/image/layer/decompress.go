package layer

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// Bounds of the memory that zstd takes. RFC 8878 3.1.1.1.2 advises encoders to
// ask for windows of 8 MiB at most; Skopeo of 2022 asks for 32 MiB at its
// highest levels, the zstd program for more with --ultra -21 or --long only. A
// decoder takes the window and its blocks.
const (
	maxWindow   = 32 << 20 // bytes
	maxDecoders = 2        // at a time for one image
)

var (
	gzipMagic = []byte{0x1f, 0x8b}             // RFC 1952 2.3.1
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd} // RFC 8878 3.1.1
)

// Compressed reports whether head, the first 4 bytes of a file, begins a
// compression that Decompress undoes.
func Compressed(head []byte) bool {
	return bytes.HasPrefix(head, gzipMagic) || isZstd(head)
}

// isZstd also knows skippable frames, which may come first.
func isZstd(head []byte) bool {
	return bytes.HasPrefix(head, zstdMagic) ||
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// Decompress copies r, read to its end, to w, and undoes gzip or zstd, which
// it knows by their first bytes: media types are often wrong.
func Decompress(w io.Writer, r io.Reader) error {
	return decompress(w, r, func() (*zstd.Decoder, func(), error) {
		zr, err := newDecoder()
		return zr, zr.Close, err
	})
}

// lender lends a zstd decoder, until done is called.
type lender func() (zr *zstd.Decoder, done func(), err error)

// decompress is Decompress with borrowed decoders.
func decompress(w io.Writer, r io.Reader, borrow lender) error {
	br := bufio.NewReaderSize(r, blockSize)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		err = gunzip(w, br)
	case isZstd(head):
		err = unzstd(w, br, borrow)
	default:
		_, err = io.Copy(w, br)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, br)
	return err
}

func gunzip(w io.Writer, r io.Reader) error {
	zr, err := gzip.NewReader(r)
	if err != nil {
		return Corrupt(err, "layer is no valid gzip file")
	}
	return copyDecoded(w, zr, "gzip")
}

// newDecoder returns a decoder without goroutines: others have the processors
// already.
func newDecoder() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
}

func unzstd(w io.Writer, r io.Reader, borrow lender) error {
	zr, done, err := borrow()
	if err != nil {
		return err
	}
	defer done()
	if err := zr.Reset(r); err != nil {
		return Corrupt(err, "layer is no valid zstd file")
	}
	err = copyDecoded(w, zr, "zstd")
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return errdefs.Wrap(err, errdefs.Unsupported, "IMAGE_UNSUPPORTED", "layer needs a zstd window of more than %d bytes", maxWindow)
	}
	return err
}

// copyDecoded tells errors of w, which it returns as they are, from those of
// the decoder.
func copyDecoded(w io.Writer, r io.Reader, format string) error {
	out := &checkedWriter{w: w}
	_, err := io.Copy(out, r)
	if out.err != nil {
		return out.err
	}
	if err != nil {
		return Corrupt(err, "layer is no valid %s file", format)
	}
	return nil
}

type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil {
		c.err = err
	}
	return n, err
}
