//go:build host

package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestBaseRandomTreesMounted(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w, image := newTestWriter(t, Options{Label: "random"})
			s := newSample(t, w, seed, 10+int(seed)*100)
			mustFinish(t, w, s.root)
			requireMounted(t, image, s)
		})
	}
}

// requireMounted requires that e2fsck and the kernel find what was put in.
func requireMounted(t *testing.T, image string, s *sample) {
	t.Helper()
	fsck(t, image)
	dir, unmount := mount(t, image, "ro")
	defer unmount()
	if diff := cmp.Diff(s.list(), listMount(t, dir)); diff != "" {
		t.Errorf("tree differs (-put in +mounted):\n%.5000s", diff)
	}
}

func TestBaseEmptyTreeMounted(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	s := &sample{root: NewDir(0o755, time.Unix(0, 0))}
	mustFinish(t, w, s.root)
	requireMounted(t, image, s)
}

// The kernel finds each of many names through the hash tree.
func TestBaseLargeDirectoriesMounted(t *testing.T) {
	for _, test := range []struct{ count, length int }{{60, 60}, {200, 8}, {50_000, 20}, {9_000, 255}, {140_000, 100}} {
		t.Run(fmt.Sprintf("%d of %d bytes", test.count, test.length), func(t *testing.T) {
			w, image := newTestWriter(t, Options{})
			root := NewDir(0o755, time.Time{})
			list := names(test.count, test.length)
			for _, name := range list {
				root.Children[name] = &Node{Mode: TypeRegular | 0o600}
			}
			mustFinish(t, w, root)
			fsck(t, image)
			dir, unmount := mount(t, image, "ro")
			defer unmount()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := threadTime(t)
			for _, name := range list {
				var st unix.Stat_t
				if err := unix.Lstat(dir+"/"+name, &st); err != nil || uint32(st.Ino) != root.Children[name].ino {
					t.Fatalf("stat %s: inode %d, %v", name, st.Ino, err)
				}
			}
			per := (threadTime(t) - start) / time.Duration(test.count)
			t.Logf("%v of CPU for a first stat of a name", per)
			// A linear search would look through hundreds of blocks for each name.
			if test.count >= 50_000 && per > 80*time.Microsecond {
				t.Errorf("a first stat of a name takes %v of CPU", per)
			}
			if err := unix.Lstat(dir+"/absent", new(unix.Stat_t)); err != unix.ENOENT {
				t.Errorf("an absent name: %v", err)
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != test.count {
				t.Errorf("%d entries, %v", len(entries), err)
			}
		})
	}
}

// threadTime returns the CPU time of the calling thread: a busy machine does not
// change it much.
func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var use unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// Names of equal hash on both sides of a block's end are found as well.
func TestBaseHashCollisionsMounted(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	var seed [4]uint32
	for i := range seed {
		seed[i] = le.Uint32(w.opts.UUID[4*i:])
	}
	// A collision is sought for among short ends of long names: with the state
	// after 192 bytes being the same, equal hashes of ends are equal hashes.
	prefix := strings.Repeat("p", 192)
	byHash := make(map[uint32]string)
	root := NewDir(0o755, time.Time{})
	for i := 0; len(root.Children) < 600; i++ {
		name := prefix + fmt.Sprintf("%028d", i)
		h := nameHash(name, seed)
		if other, ok := byHash[h]; ok {
			root.Children[name] = &Node{Mode: TypeFIFO}
			root.Children[other] = &Node{Mode: TypeFIFO}
		}
		byHash[h] = name
	}
	mustFinish(t, w, root)
	fsck(t, image)
	var list []dirent
	for name := range root.Children {
		list = append(list, dirent{name: name})
	}
	dw := dirWriter{hashSeed: seed, add: func([]byte) error { return nil }}
	if err := dw.writeTree(list); err != nil {
		t.Fatal(err)
	}
	split := 0
	for _, l := range packLeaves(list) {
		split += int(l.hash & 1)
	}
	if split == 0 {
		t.Fatal("no collision lies on the end of a block")
	}
	dir, _ := mount(t, image, "ro")
	for name, n := range root.Children {
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/"+name, &st); err != nil || uint32(st.Ino) != n.ino {
			t.Errorf("stat %s: %v", name, err)
		}
	}
}

func TestBaseManyLinksMounted(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	root, file := NewDir(0o755, time.Time{}), &Node{Mode: TypeRegular | 0o600}
	links, dirs := NewDir(0o755, time.Time{}), NewDir(0o755, time.Time{})
	root.Children["links"], root.Children["dirs"] = links, dirs
	for _, name := range names(MaxLinks, 8) {
		links.Children[name] = file
	}
	for _, name := range names(66_000, 8) {
		dirs.Children[name] = NewDir(0o755, time.Time{})
	}
	mustFinish(t, w, root)
	fsck(t, image)
	dir, _ := mount(t, image, "ro")
	for name, want := range map[string]uint64{"links/00000000": MaxLinks, "dirs": 1, "dirs/00065999": 2} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil || st.Nlink != want {
			t.Errorf("%s has %d links, want %d, %v", name, st.Nlink, want, err)
		}
	}
}

func TestBaseHolesMounted(t *testing.T) {
	const size = 3 << 30
	w, image := newTestWriter(t, Options{})
	var segments []Segment
	var packed []byte
	rng := rand.New(rand.NewPCG(1, 2))
	for at := int64(1 << 20); at < size-1<<20; at += 1 << 20 {
		segments = append(segments, Segment{at, 5000})
		for range 5000 {
			packed = append(packed, byte(rng.Uint32())|1)
		}
	}
	d, err := w.StoreSparse(bytes.NewReader(packed), size, segments)
	if err != nil {
		t.Fatal(err)
	}
	root := NewDir(0o755, time.Time{})
	root.Children["sparse"] = &Node{Mode: TypeRegular | 0o600, Data: d}
	stats := mustFinish(t, w, root)
	if got := allocated(t, image); got > 32<<20 || stats.UsedBytes > 32<<20 {
		t.Errorf("image takes %d bytes, says %d", got, stats.UsedBytes)
	}
	fsck(t, image)
	dir, _ := mount(t, image, "ro")
	f, err := os.Open(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	end := int64(0)
	for i, s := range segments {
		at, err := f.Seek(end, unix.SEEK_DATA)
		if err != nil || at != s.Offset {
			t.Fatalf("data %d begins at %d, want %d, %v", i, at, s.Offset, err)
		}
		if end, err = f.Seek(at, unix.SEEK_HOLE); err != nil || end != s.Offset+2*blockSize {
			t.Fatalf("hole %d begins at %d, %v", i, end, err)
		}
		got := make([]byte, s.Length)
		if _, err := f.ReadAt(got, at); err != nil || !bytes.Equal(got, packed[i*5000:][:5000]) {
			t.Fatalf("content of segment %d differs, %v", i, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != size {
		t.Errorf("size %d, %v", st.Size, err)
	}
}

func TestBaseDiscardedIsPunched(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	secret := bytes.Repeat([]byte("removed by an upper layer "), 1<<20)
	gone := mustStore(t, w, secret)
	kept := mustStore(t, w, pattern(1<<20))
	mustStore(t, w, secret) // neither discarded nor referred to
	w.Discard(gone)
	root := NewDir(0o755, time.Time{})
	root.Children["kept"] = &Node{Mode: TypeRegular, Data: kept}
	mustFinish(t, w, root)
	fsck(t, image)
	if got := allocated(t, image); got > 2<<20 {
		t.Errorf("image takes %d KiB", got>>10)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte("upper layer")) {
		t.Error("discarded content is left in the image")
	}
}

// A base can also be mounted for writing, and is then full at once or nearly.
func TestBaseMountsWritable(t *testing.T) {
	w, image := newTestWriter(t, Options{})
	s := newSample(t, w, 77, 200)
	mustFinish(t, w, s.root)
	dir, unmount := mount(t, image, "rw")
	if err := os.Chtimes(dir, time.Unix(5, 0), time.Unix(6, 0)); err != nil {
		t.Fatal(err)
	}
	unmount()
	fsck(t, image)
}

func TestBaseAgreesWithDebugfs(t *testing.T) {
	w, image := newTestWriter(t, Options{Label: "debug-me", Created: time.Unix(1700000000, 0)})
	root := NewDir(0o755, time.Unix(1, 0))
	root.Children["tool"] = &Node{
		Mode: TypeRegular | SetUID | 0o755, UID: 70001, GID: 70002, ModTime: time.Unix(1<<31, 5),
		Data: mustStore(t, w, pattern(5<<20)), Xattrs: map[string][]byte{"user.colour": []byte("green")},
	}
	mustFinish(t, w, root)
	out := run(t, "debugfs", "-R", "stat /tool", image)
	for _, want := range []string{"Mode:  04755", "User: 70001", "Group: 70002", "Size: 5242880", "Links: 1", "Blockcount: 10240", "user.colour (5) = \"green\"", "(0-1279)"} {
		if !strings.Contains(out, want) {
			t.Errorf("debugfs does not say %q:\n%s", want, out)
		}
	}
	out = run(t, "dumpe2fs", image)
	for _, want := range []string{"debug-me", "metadata_csum", "dir_index", "Filesystem state:         clean"} {
		if !strings.Contains(out, want) {
			t.Errorf("dumpe2fs does not say %q", want)
		}
	}
	if strings.Contains(out, "has_journal") {
		t.Error("the base has a journal")
	}
}
