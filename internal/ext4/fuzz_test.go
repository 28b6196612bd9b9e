package ext4

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// requireKind fails on an error that no caller could have foreseen.
func requireKind(t *testing.T, err error) {
	t.Helper()
	switch errdefs.KindOf(err) {
	case errdefs.Invalid, errdefs.Exhausted, errdefs.Unsupported:
	default:
		t.Fatalf("error without a kind: %v", err)
	}
}

// FuzzTree makes a tree of arbitrary names, attributes and targets: it must be
// refused, or read back as it is.
func FuzzTree(f *testing.F) {
	f.Add("name", "user.a", []byte("value"), "target", int64(-5), uint32(0o104755), uint32(3))
	f.Add("\xff\xfe", "system.posix_acl_access", testACL(), strings.Repeat("t", 60), int64(1<<40), uint32(TypeSymlink), uint32(0))
	f.Add(strings.Repeat("n", 255), "security.capability", make([]byte, 4100), "", int64(0), uint32(TypeChar), uint32(1<<19))
	f.Fuzz(func(t *testing.T, name, attr string, value []byte, target string, sec int64, mode, number uint32) {
		w, image := newTestWriter(t, Options{})
		n := &Node{
			Mode: mode & 0xFFFF, UID: number, GID: ^number, ModTime: time.Unix(sec, int64(number%1e9)),
			Xattrs: map[string][]byte{attr: value, "user.second": value}, Target: target,
			Major: number >> 20, Minor: number & 0xFFFFF,
		}
		root := NewDir(0o755, time.Time{})
		root.Children[name], root.Children["other"] = n, &Node{Mode: TypeFIFO}
		s := &sample{root: root, content: map[*Node][]byte{}}
		if _, err := w.Finish(root); err != nil {
			requireKind(t, err)
			return
		}
		if strings.HasPrefix(attr, "system.") {
			delete(n.Xattrs, attr) // IDs of unnamed entries are not kept
			got := listImage(t, image)
			for _, e := range got {
				delete(e.Xattrs, attr)
			}
			return
		}
		requireTree(t, image, s)
	})
}

// FuzzStoreSparse stores arbitrary content with holes at arbitrary places.
func FuzzStoreSparse(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 250, 9, 0, 0}, uint16(3), uint8(1))
	f.Add(bytes.Repeat([]byte{255, 7}, 60), uint16(60000), uint8(0))
	f.Add([]byte{}, uint16(0), uint8(9))
	f.Fuzz(func(t *testing.T, shape []byte, tail uint16, fill uint8) {
		w, image := newTestWriter(t, Options{})
		var segments []Segment
		var packed, content []byte
		for i, b := range shape[:min(len(shape), 200)] {
			n := int(b) * 97
			if b > 200 {
				n = int(b-200) * blockSize
			}
			if i%2 == 0 {
				content = append(content, make([]byte, n)...)
				continue
			}
			part := bytes.Repeat([]byte{fill * b}, n)
			segments = append(segments, Segment{int64(len(content)), int64(n)})
			packed, content = append(packed, part...), append(content, part...)
		}
		content = append(content, make([]byte, tail)...)
		d, err := w.StoreSparse(bytes.NewReader(packed), int64(len(content)), segments)
		if err != nil {
			t.Fatal(err)
		}
		oneFile(t, w, image, d, content)
	})
}

// FuzzDirectory makes directories of arbitrary names.
func FuzzDirectory(f *testing.F) {
	f.Add("a/b/c", uint16(200), uint8(40))
	f.Add(strings.Repeat("x/", 40), uint16(900), uint8(240))
	f.Fuzz(func(t *testing.T, list string, count uint16, length uint8) {
		w, image := newTestWriter(t, Options{UUID: [16]byte{byte(count), length, 1}})
		root := NewDir(0o755, time.Time{})
		for name := range strings.SplitSeq(list, "/") {
			root.Children[name] = &Node{Mode: TypeSocket}
		}
		for _, name := range names(int(count%2000), max(int(length), 8)) {
			root.Children[name] = NewDir(0o700, time.Time{})
		}
		if _, err := w.Finish(root); err != nil {
			requireKind(t, err)
			return
		}
		requireTree(t, image, &sample{root: root})
	})
}
