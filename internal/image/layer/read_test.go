package layer_test

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/ext4"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

// counter counts the bytes of files.
type counter struct {
	bytes int64
	err   error
}

func (c *counter) Store(r io.Reader, size int64) (*ext4.Data, error) {
	n, err := io.CopyN(io.Discard, r, size)
	c.bytes += n
	return new(ext4.Data), errors.Join(err, c.err)
}

func read(t *testing.T, blob io.Reader, digest, diffID manifest.Digest, sink layer.Sink) (*layer.Layer, error) {
	t.Helper()
	src := layer.Source{Digest: digest, DiffID: diffID, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(blob), nil
	}}
	return layer.Read(t.Context(), src, sink, &layer.Quota{MaxBytes: 8 << 20, MaxEntries: 100, MaxDepth: 10, MaxXattrBytes: 100, MaxMetadata: 10000})
}

// oddGzip is a valid gzip file with every optional field of RFC 1952 in its
// header, a checksum of the header, and two members. Parallel readers refuse it.
func oddGzip(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, part := range [][]byte{b[:700], b[700:]} {
		member := imagetest.Gzip(t, part)
		header := append([]byte(nil), member[:10]...)
		header[3] = 0x02 | 0x04 | 0x08 | 0x10 // FHCRC, FEXTRA, FNAME, FCOMMENT
		header = append(header, 4, 0, 'A', 'B', 0, 0)
		header = append(header, "name\x00comment\x00"...)
		sum := crc32.ChecksumIEEE(header)
		header = append(header, byte(sum), byte(sum>>8))
		out.Write(header)
		out.Write(member[10:])
	}
	return out.Bytes()
}

func TestReadCompressions(t *testing.T) {
	archive := imagetest.Tar(t, imagetest.File("a", strings.Repeat("content ", 100<<10)), imagetest.Dir("d"))
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y'}, imagetest.Zstd(t, archive)...)
	for name, blob := range map[string][]byte{
		"none":                  archive,
		"gzip":                  imagetest.Gzip(t, archive),
		"gzip with all fields":  oddGzip(t, archive),
		"zstd":                  imagetest.Zstd(t, archive),
		"zstd, skippable frame": skippable,
		"zstd, two frames":      append(imagetest.Zstd(t, archive[:512]), imagetest.Zstd(t, archive[512:])...),
	} {
		sink := &counter{}
		l, err := read(t, bytes.NewReader(blob), manifest.Of(blob), manifest.Of(archive), sink)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(l.Entries) != 2 || sink.bytes != 800<<10 || l.Size != int64(len(archive)) {
			t.Errorf("%s: %d entries, %d bytes of %d", name, len(l.Entries), sink.bytes, l.Size)
		}
	}
}

// TestReadHashesToTheEnd counts what follows the archive's end, as builders do.
func TestReadHashesToTheEnd(t *testing.T) {
	archive := append(imagetest.Tar(t, imagetest.File("a", "b")), make([]byte, 300<<10)...)
	if _, err := read(t, bytes.NewReader(imagetest.Gzip(t, archive)), "", manifest.Of(archive), &counter{}); err != nil {
		t.Error(err)
	}
}

func TestReadCorrupt(t *testing.T) {
	archive := imagetest.Tar(t, imagetest.File("a", strings.Repeat("x", 5000)))
	zipped := imagetest.Gzip(t, archive)
	flipped := bytes.Clone(zipped)
	flipped[len(flipped)/2] ^= 0x40
	other := manifest.Of([]byte("other"))
	for _, tc := range []struct {
		name           string
		blob           []byte
		digest, diffID manifest.Digest
	}{
		{"other digest", zipped, other, manifest.Of(archive)},
		{"other diff id", zipped, manifest.Of(zipped), other},
		{"cut gzip", zipped[:len(zipped)/2], "", ""},
		{"cut gzip header", zipped[:5], "", ""},
		{"flipped bit", flipped, "", ""},
		{"gzip and garbage", append(bytes.Clone(zipped), "garbage that is no member"...), "", ""},
		{"cut zstd", imagetest.Zstd(t, archive)[:30], "", ""},
		{"text", bytes.Repeat([]byte("text "), 1000), "", ""},
	} {
		if _, err := read(t, bytes.NewReader(tc.blob), tc.digest, tc.diffID, &counter{}); errdefs.CodeOf(err) != "IMAGE_CORRUPT" {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

// TestReadCut cuts an archive without a known digest at the boundaries of its
// blocks, which look like an end, and elsewhere.
func TestReadCut(t *testing.T) {
	archive := imagetest.Tar(t,
		imagetest.Dir("d"), imagetest.File("zeros", strings.Repeat("\x00", 3000)),
		imagetest.File(strings.Repeat("pax", 60), "x"), imagetest.Symlink("s", strings.Repeat("t", 200)))
	for at := range len(archive) {
		if at%512 != 0 && at%97 != 0 {
			continue
		}
		for name, blob := range map[string][]byte{"plain": archive[:at], "gzip": imagetest.Gzip(t, archive[:at])} {
			if _, err := read(t, bytes.NewReader(blob), "", "", &counter{}); errdefs.CodeOf(err) != "IMAGE_CORRUPT" {
				t.Errorf("%s cut at %d of %d: got %v", name, at, len(archive), err)
			}
		}
	}
	whole := append(bytes.Clone(archive), make([]byte, 10240-len(archive)%10240)...) // as GNU tar pads
	for _, blob := range [][]byte{archive, whole} {
		l, err := read(t, bytes.NewReader(blob), "", "", &counter{})
		if err != nil || len(l.Entries) != 4 || l.Size != int64(len(blob)) {
			t.Errorf("whole archive of %d bytes: %+v, %v", len(blob), l, err)
		}
	}
	unmarked := archive[:len(archive)-1024] // some builders write them
	if _, err := read(t, bytes.NewReader(unmarked), "", manifest.Of(unmarked), &counter{}); err != nil {
		t.Errorf("archive without mark, but with digest: %v", err)
	}
}

// TestReadKeepsErrors tells errors of the source and of the sink from those of
// the archive.
func TestReadKeepsErrors(t *testing.T) {
	archive := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", strings.Repeat("x", 5000)), imagetest.File("b", "")))
	cut := errors.New("cut")
	for _, at := range []int{0, 3, 40, len(archive) - 4} {
		blob := io.MultiReader(bytes.NewReader(archive[:at]), failing{cut})
		if _, err := read(t, blob, "", "", &counter{}); !errors.Is(err, cut) || errdefs.KindOf(err) != errdefs.Internal {
			t.Errorf("source fails at %d: %v", at, err)
		}
	}
	if _, err := read(t, bytes.NewReader(archive), "", "", &counter{err: cut}); !errors.Is(err, cut) || errdefs.KindOf(err) != errdefs.Internal {
		t.Errorf("sink fails: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestReadLetsGo ends a source that stands still when the archive is refused.
func TestReadLetsGo(t *testing.T) {
	pr, pw := io.Pipe()
	go func() {
		bad := imagetest.Tar(t, imagetest.File("../a", strings.Repeat("x", 200<<10)))
		_, _ = pw.Write(bad[:150<<10]) // and never more
	}()
	src := layer.Source{Open: func(ctx context.Context) (io.ReadCloser, error) {
		context.AfterFunc(ctx, func() { pr.CloseWithError(context.Cause(ctx)) })
		return pr, nil
	}}
	_, err := layer.Read(t.Context(), src, &counter{}, &layer.Quota{MaxBytes: 1 << 20, MaxEntries: 10, MaxDepth: 10, MaxMetadata: 1000})
	if errdefs.CodeOf(err) != "IMAGE_CORRUPT" {
		t.Errorf("got %v", err)
	}
}

// TestReadBomb stops a layer that unpacks to far more than it weighs.
func TestReadBomb(t *testing.T) {
	bomb := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("zeros", strings.Repeat("\x00", 9<<20))))
	sink := &counter{}
	if _, err := read(t, bytes.NewReader(bomb), "", "", sink); errdefs.CodeOf(err) != "IMAGE_TOO_LARGE" {
		t.Errorf("got %v after %d bytes", err, sink.bytes)
	}
}

// FuzzRead reads any bytes as a layer.
func FuzzRead(f *testing.F) {
	archive := imagetest.Tar(f, imagetest.File("a", "b"), imagetest.Symlink("c", "a"), imagetest.Whiteout("d", "e"))
	f.Add(archive)
	f.Add(imagetest.Gzip(f, archive))
	f.Add(imagetest.Zstd(f, archive))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := read(t, bytes.NewReader(b), manifest.Of(b), "", &counter{})
		if err != nil && errdefs.Is(err, errdefs.Internal) {
			t.Errorf("error without a kind: %v", err)
		}
		if err == nil && l.DiffID == "" {
			t.Error("layer without diff id")
		}
	})
}
