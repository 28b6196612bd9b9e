package merge_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// TestMergeGNU reads what GNU tar writes for long names.
func TestMergeGNU(t *testing.T) {
	long := strings.Repeat("directory/", 20) + strings.Repeat("f", 120)
	h := tar.Header{Typeflag: tar.TypeReg, Name: long, Mode: 0o644, Format: tar.FormatGNU, ModTime: imagetest.Epoch.Truncate(time.Second)}
	got, err := merged(t.Context(), imagetest.Tar(t, header(h)))
	if err != nil {
		t.Fatal(err)
	}
	if last := got[len(got)-1]; !strings.HasPrefix(last, "/"+long+" ") {
		t.Errorf("got %q", last)
	}
}

// The forms of sparse files below hold 3 bytes at 2, 4 at 10 and are 16 long.
const (
	sparseData = "abcdefg"
	sparseWant = `/s 100644 0:0 @2001-02-03T04:05:06Z "\x00\x00abc\x00\x00\x00\x00\x00defg\x00\x00"`
)

// TestMergeSparse reads the forms in which GNU tar keeps sparse files; what it
// really writes is read by the tests of the host tier.
func TestMergeSparse(t *testing.T) {
	for name, archive := range map[string][]byte{
		"old GNU": oldSparse(2, 3, 10, 4, 16),
		"PAX 0.0": paxSparse(sparseData, "GNU.sparse.size", "16", "GNU.sparse.numblocks", "2",
			"GNU.sparse.offset", "2", "GNU.sparse.numbytes", "3", "GNU.sparse.offset", "10", "GNU.sparse.numbytes", "4"),
		"PAX 0.1": paxSparse(sparseData, "GNU.sparse.size", "16", "GNU.sparse.numblocks", "2", "GNU.sparse.name", "s",
			"GNU.sparse.map", "2,3,10,4"),
		"PAX 1.0": paxSparse(string(padded([]byte("2\n2\n3\n10\n4\n")))+sparseData, "GNU.sparse.major", "1", "GNU.sparse.minor", "0",
			"GNU.sparse.name", "s", "GNU.sparse.realsize", "16"),
	} {
		got, err := merged(t.Context(), archive)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff([]string{root, sparseWant}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestMergeSparseRefuses reads maps that claim what is not there.
func TestMergeSparseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		archive []byte
		code    string
	}{
		"hole of a petabyte":  {oldSparse(2, 3, 10, 4, 1<<50), "IMAGE_TOO_LARGE"},
		"data beyond the end": {oldSparse(2, 3, 10, 4, 12), "IMAGE_CORRUPT"},
		"overlapping data":    {oldSparse(10, 3, 2, 4, 16), "IMAGE_CORRUPT"},
		"more data than sent": {oldSparse(2, 3, 10, 1<<20, 1<<21), "IMAGE_CORRUPT"},
		"map that is too long": {paxSparse("", "GNU.sparse.size", "16", "GNU.sparse.numblocks", "99999999", "GNU.sparse.name", "s",
			"GNU.sparse.map", "2,3,10,4"), "IMAGE_CORRUPT"},
		"map without end": {paxSparse(strings.Repeat("2\n", 4096), "GNU.sparse.major", "1", "GNU.sparse.minor", "0",
			"GNU.sparse.name", "s", "GNU.sparse.realsize", "16"), "IMAGE_CORRUPT"},
	} {
		if got, err := merged(t.Context(), tc.archive); errdefs.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, %q, want %s", name, err, got, tc.code)
		}
	}
}

// oldSparse is an archive with a sparse file in the old GNU format, as the
// manual of GNU tar has it in "Basic Tar Format" and "Storing Sparse Files".
func oldSparse(offset1, length1, offset2, length2, size int64) []byte {
	h := ustar("s", 'S', len(sparseData))
	copy(h[257:], "ustar  \x00") // GNU's magic
	for i, v := range []int64{offset1, length1, offset2, length2} {
		number(h[386+12*i:][:12], v)
	}
	number(h[483:495], size)
	return finished(h, []byte(sparseData))
}

// paxSparse is an archive with a sparse file whose map is in PAX records.
func paxSparse(body string, records ...string) []byte {
	var pax bytes.Buffer
	for i := 0; i < len(records); i += 2 {
		line := " " + records[i] + "=" + records[i+1] + "\n"
		n := len(line) + 2
		if n > 99 {
			n++
		}
		pax.WriteString(fmt.Sprint(n) + line)
	}
	return finished(ustar("x", 'x', pax.Len()), pax.Bytes(), ustar("s", '0', len(body)), []byte(body))
}

// ustar is a header block without checksum.
func ustar(name string, kind byte, size int) []byte {
	h := make([]byte, 512)
	copy(h, name)
	copy(h[100:], "0000644\x000000000\x000000000\x00")
	number(h[124:136], int64(size))
	number(h[136:148], imagetest.Epoch.Unix())
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	return h
}

// number writes v in octal digits, or in base 256 where those are too few.
func number(field []byte, v int64) {
	if digits := fmt.Sprintf("%0*o", len(field)-1, v); len(digits) < len(field) {
		copy(field, digits)
		return
	}
	for i := len(field) - 1; i > 0; i-- {
		field[i] = byte(v)
		v >>= 8
	}
	field[0] = 0x80
}

// finished sums headers up, pads all parts to blocks, and marks the end.
func finished(parts ...[]byte) []byte {
	var out []byte
	for i, part := range parts {
		if i%2 == 0 {
			copy(part[148:156], "        ")
			sum := 0
			for _, b := range part {
				sum += int(b)
			}
			copy(part[148:156], fmt.Sprintf("%06o\x00 ", sum))
		}
		out = append(out, padded(part)...)
	}
	return append(out, make([]byte, 1024)...)
}

func padded(b []byte) []byte {
	return append(bytes.Clone(b), make([]byte, (512-len(b)%512)%512)...)
}
