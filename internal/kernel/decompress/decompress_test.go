package decompress_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/hyperfleet/hyperfleet/internal/kernel/decompress"
)

// text is data that compresses well, of n bytes.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = "abcd"[r.IntN(4)]
	}
	return b
}

func legacyLZ4(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := lz4.NewWriter(&b)
	if err := z.Apply(lz4.LegacyOption(true)); err != nil {
		t.Fatal(err)
	}
	mustPack(t, z, data)
	return b.Bytes()
}

func mustPack(t testing.TB, z io.WriteCloser, data []byte) {
	t.Helper()
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAuto(t *testing.T) {
	data := text(100 << 10)
	var gz, zst bytes.Buffer
	mustPack(t, gzip.NewWriter(&gz), data)
	z, err := zstd.NewWriter(&zst)
	if err != nil {
		t.Fatal(err)
	}
	mustPack(t, z, data)
	requireAuto(t, "none", data, data)
	requireAuto(t, "zstd", zst.Bytes(), data)
	requireAuto(t, "lz4", legacyLZ4(t, data), data)
	requireAuto(t, "two lz4 frames", append(legacyLZ4(t, data[:100]), legacyLZ4(t, data[100:])...), data)
	requireAuto(t, "gzip", gz.Bytes(), data)
	requireAuto(t, "gzip with a tail", append(gz.Bytes(), "tail"...), data)

	blocks := make([]byte, 9<<20) // one block of LZ4 has 8 MiB
	copy(blocks[8<<20-50:], data)
	requireAuto(t, "two lz4 blocks", legacyLZ4(t, blocks), blocks)
}

func requireAuto(t *testing.T, name string, packed, want []byte) {
	t.Helper()
	r, err := decompress.Auto(bytes.NewReader(packed))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v", name, len(got), err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("%s: close: %v", name, err)
	}
}

func TestAutoShort(t *testing.T) {
	for _, s := range []string{"", "a", "\x1f", "\xfd7z"} {
		r, err := decompress.Auto(bytes.NewReader([]byte(s)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || string(got) != s {
			t.Errorf("%q: read %q, %v", s, got, err)
		}
	}
}

func TestNewReaderRejects(t *testing.T) {
	for _, f := range []decompress.Format{decompress.LZMA, decompress.LZO, "other"} {
		if _, err := decompress.NewReader(bytes.NewReader(nil), f); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", f, err)
		}
	}
	good := legacyLZ4(t, text(1000))
	word := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	for name, packed := range map[string][]byte{
		"empty":         nil,
		"no magic":      word(5),
		"zero block":    append(bytes.Clone(good), word(0)...),
		"huge block":    append(bytes.Clone(good), word(1<<31)...),
		"cut size":      append(bytes.Clone(good), 1, 2),
		"cut block":     good[:len(good)-1],
		"corrupt block": append(append(bytes.Clone(good[:4]), word(4)...), 0xff, 0xff, 0xff, 0xff),
	} {
		r, err := decompress.NewReader(bytes.NewReader(packed), decompress.LZ4)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err == nil {
			t.Errorf("%s: read %d bytes without an error", name, len(got))
		}
		if _, err := r.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: the error does not last", name)
		}
	}
}

func FuzzAuto(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add(legacyLZ4(f, text(3000)))
	var gz bytes.Buffer
	mustPack(f, gzip.NewWriter(&gz), text(3000))
	f.Add(gz.Bytes())
	f.Add([]byte("\xfd7zXZ\x00\x00\x01\x69\x22\xde\x36"))
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x04\x58"))
	f.Fuzz(func(t *testing.T, packed []byte) {
		r, err := decompress.Auto(bytes.NewReader(packed))
		if err != nil {
			return
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(r, 32<<20))
		if err == nil && decompress.Detect(packed) == decompress.None && n != int64(len(packed)) {
			t.Errorf("plain data of %d bytes gave %d", len(packed), n)
		}
	})
}
