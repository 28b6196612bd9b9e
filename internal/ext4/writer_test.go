package ext4

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func requireTree(t testing.TB, image string, s *sample) {
	t.Helper()
	if put, read := s.list(), listImage(t, image); !reflect.DeepEqual(put, read) { // far faster than cmp
		t.Errorf("tree differs (-put in +read):\n%.5000s", cmp.Diff(put, read))
	}
}

func TestBaseRandomTrees(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w, image := newTestWriter(t, Options{})
			s := newSample(t, w, 100+seed, 5+int(seed)*40)
			stats := mustFinish(t, w, s.root)
			requireTree(t, image, s)
			info, err := os.Stat(image)
			if err != nil {
				t.Fatal(err)
			}
			nodes := make(map[string]bool)
			for _, e := range s.list() {
				nodes[e.Same] = true
			}
			if info.Size() != stats.Size || stats.Inodes != len(nodes) {
				t.Errorf("%+v for a file of %d bytes and %d inodes", stats, info.Size(), len(nodes))
			}
			if unused := stats.MaxInodes - stats.Inodes - firstInode; unused > 2*16 {
				t.Errorf("%d inodes are not needed", unused)
			}
		})
	}
}

func TestBaseIsDeterministic(t *testing.T) {
	images := make([][]byte, 2)
	for i := range images {
		w, image := newTestWriter(t, Options{Label: "same", Created: time.Unix(1700000000, 0)})
		mustFinish(t, w, newSample(t, w, 42, 300).root)
		var err error
		if images[i], err = os.ReadFile(image); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("equal input made different images")
	}
}

// names returns count names of the given length, at least 8.
func names(count, length int) []string {
	out := make([]string, count)
	for i := range out {
		out[i] = fmt.Sprintf("%0*d", length, i)
	}
	return out
}

func TestBaseLargeDirectories(t *testing.T) {
	for _, test := range []struct{ count, length int }{
		{60, 60},     // one block, nearly full
		{200, 8},     // a root and two leaves
		{33_000, 8},  // more inodes than a bitmap has bits
		{7_800, 255}, // index blocks below the root
	} {
		t.Run(fmt.Sprintf("%d of %d bytes", test.count, test.length), func(t *testing.T) {
			w, image := newTestWriter(t, Options{})
			s := &sample{root: NewDir(0o755, time.Time{})}
			for _, name := range names(test.count, test.length) {
				s.root.Children[name] = &Node{Mode: TypeRegular | 0o600}
			}
			mustFinish(t, w, s.root)
			requireTree(t, image, s)
		})
	}
}

func TestBaseDeepTree(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	s := &sample{root: NewDir(0o755, time.Time{})}
	for i, dir := 0, s.root; i < 1000; i++ {
		sub := NewDir(0o700, time.Time{})
		dir.Children["d"] = sub
		dir = sub
	}
	mustFinish(t, w, s.root)
	requireTree(t, image, s)
}

func TestFinishRefuses(t *testing.T) {
	file := func(f func(n *Node)) *Node {
		n := &Node{Mode: TypeRegular | 0o644}
		f(n)
		return n
	}
	dir := func(children map[string]*Node) *Node { return &Node{Mode: TypeDir, Children: children} }
	tooMany, one := make(map[string]*Node), &Node{Mode: TypeFIFO}
	for _, name := range names(MaxLinks+1, 8) {
		tooMany[name] = one
	}
	sub := dir(nil)
	for name, test := range map[string]struct {
		children map[string]*Node
		kind     errdefs.Kind
		code     string
	}{
		"empty name":      {map[string]*Node{"": dir(nil)}, errdefs.Invalid, "FILE_NAME_INVALID"},
		"dot":             {map[string]*Node{".": dir(nil)}, errdefs.Invalid, "FILE_NAME_INVALID"},
		"dots":            {map[string]*Node{"..": dir(nil)}, errdefs.Invalid, "FILE_NAME_INVALID"},
		"slash":           {map[string]*Node{"a/b": dir(nil)}, errdefs.Invalid, "FILE_NAME_INVALID"},
		"NUL":             {map[string]*Node{"a\x00": dir(nil)}, errdefs.Invalid, "FILE_NAME_INVALID"},
		"long name":       {map[string]*Node{strings.Repeat("n", 256): dir(nil)}, errdefs.Exhausted, "FILE_NAME_TOO_LONG"},
		"no node":         {map[string]*Node{"a": nil}, errdefs.Invalid, "TREE_INVALID"},
		"no type":         {map[string]*Node{"a": {Mode: 0o644}}, errdefs.Invalid, "FILE_TYPE_INVALID"},
		"linked dir":      {map[string]*Node{"a": sub, "b": sub}, errdefs.Invalid, "TREE_INVALID"},
		"too many links":  {tooMany, errdefs.Exhausted, "TOO_MANY_LINKS"},
		"empty target":    {map[string]*Node{"a": {Mode: TypeSymlink}}, errdefs.Invalid, "SYMLINK_INVALID"},
		"target with NUL": {map[string]*Node{"a": {Mode: TypeSymlink, Target: "a\x00b"}}, errdefs.Invalid, "SYMLINK_INVALID"},
		"long target":     {map[string]*Node{"a": {Mode: TypeSymlink, Target: strings.Repeat("t", 4096)}}, errdefs.Exhausted, "SYMLINK_TOO_LONG"},
		"major":           {map[string]*Node{"a": {Mode: TypeChar, Major: 1 << 12}}, errdefs.Invalid, "DEVICE_INVALID"},
		"minor":           {map[string]*Node{"a": {Mode: TypeBlock, Minor: 1 << 20}}, errdefs.Invalid, "DEVICE_INVALID"},
		"foreign xattr":   {map[string]*Node{"a": file(func(n *Node) { n.Xattrs = map[string][]byte{"com.apple.x": nil} })}, errdefs.Unsupported, "XATTR_UNSUPPORTED"},
		"bad ACL":         {map[string]*Node{"a": file(func(n *Node) { n.Xattrs = map[string][]byte{"system.posix_acl_access": {1}} })}, errdefs.Invalid, "XATTR_INVALID"},
		"large xattr":     {map[string]*Node{"a": file(func(n *Node) { n.Xattrs = map[string][]byte{"user.x": make([]byte, 4096)} })}, errdefs.Exhausted, "XATTR_TOO_LARGE"},
		"foreign data":    {map[string]*Node{"a": file(func(n *Node) { n.Data = &Data{size: 1} })}, errdefs.Invalid, "TREE_INVALID"},
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := newTestWriter(t, Options{})
			_, err := w.Finish(dir(map[string]*Node{"sub": dir(test.children)}))
			if errdefs.KindOf(err) != test.kind || errdefs.CodeOf(err) != test.code {
				t.Fatalf("got %s %s: %v", errdefs.KindOf(err), errdefs.CodeOf(err), err)
			}
			if !strings.Contains(errdefs.Public(err), `/sub/`) {
				t.Errorf("message %q does not name the file", errdefs.Public(err))
			}
		})
	}
}

func TestFinishRefusesTrees(t *testing.T) {
	used := NewDir(0o755, time.Time{})
	w, _ := newTestWriter(t, Options{})
	mustFinish(t, w, used)
	shared := func(w *Writer) *Node {
		d := mustStore(t, w, []byte("content"))
		return &Node{Mode: TypeDir, Children: map[string]*Node{"a": {Mode: TypeRegular, Data: d}, "b": {Mode: TypeRegular, Data: d}}}
	}
	for name, tree := range map[string]func(w *Writer) *Node{
		"nil":         func(*Writer) *Node { return nil },
		"file":        func(*Writer) *Node { return &Node{Mode: TypeRegular} },
		"used":        func(*Writer) *Node { return used },
		"used below":  func(*Writer) *Node { return &Node{Mode: TypeDir, Children: map[string]*Node{"a": used}} },
		"shared data": shared,
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := newTestWriter(t, Options{})
			if _, err := w.Finish(tree(w)); errdefs.CodeOf(err) != "TREE_INVALID" {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNewWriterRefuses(t *testing.T) {
	for name, opts := range map[string]Options{
		"negative size": {MaxSize: -1},
		"large size":    {MaxSize: 16<<40 + 1},
		"no room":       {MaxSize: 4096},
		"long label":    {Label: strings.Repeat("l", 17)},
	} {
		if _, err := newWriter(nil, opts); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestXattrSupported(t *testing.T) {
	for name, want := range map[string]bool{
		"user.a": true, "trusted.overlay.opaque": true, "security.capability": true,
		"system.posix_acl_access": true, "system.posix_acl_default": true,
		"user.": false, "user": false, "": false, "system.posix_acl_access2": false, "system.data": false,
		"com.apple.x": false, "user.a\x00b": false, "user." + strings.Repeat("n", 256): false,
	} {
		if got := XattrSupported(name); got != want {
			t.Errorf("XattrSupported(%q) = %v", name, got)
		}
	}
}

func TestXattrsFillInodeAndBlock(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	s := &sample{root: NewDir(0o755, time.Time{})}
	body := &Node{Mode: TypeRegular, Xattrs: map[string][]byte{"user.a": make([]byte, xattrBodySpace-20)}}
	both := &Node{Mode: TypeRegular, Xattrs: maps.Clone(body.Xattrs)}
	both.Xattrs["user.b"] = bytes.Repeat([]byte("b"), xattrBlockSpace-20)
	s.root.Children["body"], s.root.Children["both"] = body, both
	mustFinish(t, w, s.root)
	requireTree(t, image, s)
}
