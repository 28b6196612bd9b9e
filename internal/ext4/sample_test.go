package ext4

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample is a tree with the contents that its files were stored with.
type sample struct {
	root    *Node
	content map[*Node][]byte
}

// entry is all that is compared of one name.
type entry struct {
	Mode     uint32
	UID, GID uint32
	ModTime  string // seconds and nanoseconds
	Links    uint32
	Major    uint32
	Minor    uint32
	Target   string
	Size     int64
	Sum      string // SHA-256 of a regular file
	Xattrs   map[string]string
	Same     string // least path of the same inode
}

// encodable returns t as the format keeps it.
func encodable(t time.Time) string {
	if t.Unix() < -1<<31 {
		return "-2147483648.000000000"
	}
	if t.Unix() > 10737418239 {
		return "10737418239.999999999"
	}
	return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond())
}

// list returns what a correct image of s has.
func (s *sample) list() map[string]entry {
	out := make(map[string]entry)
	first := make(map[*Node]string)
	names := make(map[*Node]uint32)
	var walk func(path string, n *Node)
	walk = func(path string, n *Node) {
		names[n]++
		if p, ok := first[n]; !ok || path < p {
			first[n] = path
		}
		for name, c := range n.Children {
			if n.IsDir() {
				walk(path+"/"+name, c)
			}
		}
	}
	walk("", s.root)
	var fill func(path string, n *Node)
	fill = func(path string, n *Node) {
		e := entry{
			Mode: n.Mode, UID: n.UID, GID: n.GID, ModTime: encodable(n.ModTime),
			Links: names[n], Same: first[n], Xattrs: make(map[string]string),
		}
		for k, v := range n.Xattrs {
			e.Xattrs[k] = string(v)
		}
		switch n.Mode & TypeMask {
		case TypeRegular:
			e.Size = int64(len(s.content[n]))
			e.Sum = fmt.Sprintf("%x", sha256.Sum256(s.content[n]))
		case TypeSymlink:
			e.Target, e.Size = n.Target, int64(len(n.Target))
		case TypeBlock, TypeChar:
			e.Major, e.Minor = n.Major, n.Minor
		case TypeDir:
			e.Links = 2
			for name, c := range n.Children {
				if c.IsDir() {
					e.Links++
				}
				fill(path+"/"+name, c)
			}
		}
		out[path] = e
	}
	fill("", s.root)
	return out
}

// newTestWriter returns a Writer for a new file.
func newTestWriter(t testing.TB, opts Options) (*Writer, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.ext4")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if opts.UUID == ([16]byte{}) {
		opts.UUID = [16]byte{0xDE, 0xAD, 1, 2, 3, 4, 0x45, 6, 0x87, 8, 9, 10, 11, 12, 13, 14}
	}
	w, err := NewWriter(f, opts)
	if err != nil {
		t.Fatal(err)
	}
	return w, path
}

func mustStore(t testing.TB, w *Writer, content []byte) *Data {
	t.Helper()
	d, err := w.Store(bytes.NewReader(content), int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustFinish(t testing.TB, w *Writer, root *Node) Stats {
	t.Helper()
	stats, err := w.Finish(root)
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// sampler makes random trees.
type sampler struct {
	t    testing.TB
	w    *Writer
	rng  *rand.Rand
	s    *sample
	dirs []*Node
	all  []*Node // but directories

	noise []byte
}

// newSample stores a random tree of about count files through w.
func newSample(t testing.TB, w *Writer, seed uint64, count int) *sample {
	r := &sampler{t: t, w: w, rng: rand.New(rand.NewPCG(seed, 7)), s: &sample{content: make(map[*Node][]byte)}}
	r.noise = make([]byte, 40_000)
	for i := range r.noise {
		r.noise[i] = byte(r.rng.Uint32())
	}
	r.s.root = NewDir(0o755, r.time())
	r.dirs = []*Node{r.s.root}
	for range count {
		dir := r.dirs[r.rng.IntN(len(r.dirs))]
		name := r.name()
		if dir.Children[name] == nil {
			dir.Children[name] = r.node()
		}
	}
	return r.s
}

func (r *sampler) node() *Node {
	n := &Node{
		Mode: uint32(r.rng.IntN(0o10000)), UID: r.id(), GID: r.id(),
		ModTime: r.time(), Xattrs: r.xattrs(),
	}
	switch k := r.rng.IntN(20); {
	case k < 4:
		n.Mode |= TypeDir
		n.Children = make(map[string]*Node)
		r.dirs = append(r.dirs, n)
		return n
	case k < 6 && len(r.all) > 0:
		return r.all[r.rng.IntN(len(r.all))]
	case k < 8:
		n.Mode = n.Mode&^0o7777 | TypeSymlink | 0o777
		n.Xattrs = nil
		length := []int{1, 58, 59, 60, 61, 100, 4095}[r.rng.IntN(7)]
		n.Target = strings.Repeat("t/\xff", 1400)[:length]
	case k == 8:
		n.Mode |= []uint32{TypeBlock, TypeChar}[r.rng.IntN(2)]
		n.Major, n.Minor = r.rng.Uint32N(1<<12), r.rng.Uint32N(1<<20)
		if r.rng.IntN(2) == 0 {
			n.Major, n.Minor = n.Major%256, n.Minor%256
		}
	case k == 9:
		n.Mode |= []uint32{TypeFIFO, TypeSocket}[r.rng.IntN(2)]
	default:
		n.Mode |= TypeRegular
		r.content(n)
	}
	if n.Mode&TypeMask != TypeRegular {
		n.Xattrs = keepTrusted(n.Xattrs)
	}
	r.all = append(r.all, n)
	return n
}

// keepTrusted drops what the kernel refuses on other files than regular ones
// and directories.
func keepTrusted(attrs map[string][]byte) map[string][]byte {
	out := make(map[string][]byte)
	for k, v := range attrs {
		if strings.HasPrefix(k, "trusted.") {
			out[k] = v
		}
	}
	return out
}

func (r *sampler) content(n *Node) {
	size := []int{0, 1, 4095, 4096, 4097, 70_000, 300_000}[r.rng.IntN(7)]
	b := make([]byte, size)
	for at := 0; at < size; {
		end := min(at+1+r.rng.IntN(40000), size)
		if r.rng.IntN(3) > 0 {
			copy(b[at:end], r.noise)
		}
		at = end
	}
	var err error
	if r.rng.IntN(2) == 0 {
		n.Data, err = r.w.Store(bytes.NewReader(b), int64(size))
	} else {
		packed, segments := r.segments(b)
		n.Data, err = r.w.StoreSparse(bytes.NewReader(packed), int64(size), segments)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if r.rng.IntN(8) == 0 { // shadowed by an upper layer
		r.w.Discard(n.Data)
		n.Data, b = nil, nil
	}
	r.s.content[n] = b
}

// segments cuts random ranges out of b and makes the rest of it zero.
func (r *sampler) segments(b []byte) (packed []byte, list []Segment) {
	at := 0
	for at < len(b) {
		gap := min(r.rng.IntN(20000), len(b)-at)
		clear(b[at : at+gap])
		at += gap
		n := min(r.rng.IntN(20000), len(b)-at)
		list = append(list, Segment{int64(at), int64(n)})
		packed = append(packed, b[at:at+n]...)
		at += n
	}
	return packed, list
}

func (r *sampler) name() string {
	n := 1 + r.rng.IntN(12)
	if r.rng.IntN(10) == 0 {
		n = 255 - r.rng.IntN(3)
	}
	b := make([]byte, n)
	for i := range b {
		for b[i] == 0 || b[i] == '/' {
			b[i] = byte(r.rng.Uint32())
		}
	}
	if s := string(b); s != "." && s != ".." {
		return s
	}
	return "dots"
}

func (r *sampler) id() uint32 { return []uint32{0, 1000, 65534, 70000, 1<<32 - 2}[r.rng.IntN(5)] }

func (r *sampler) time() time.Time {
	secs := []int64{0, -1, -1 << 31, -1<<31 - 5, 1700000000, 1<<31 - 1, 1 << 31, 1 << 32, 5 << 31, 10737418239, 10737418240, 15032385536, -62135596800}
	return time.Unix(secs[r.rng.IntN(len(secs))], r.rng.Int64N(1e9))
}

func (r *sampler) xattrs() map[string][]byte {
	attrs := make(map[string][]byte)
	if r.rng.IntN(3) > 0 {
		return attrs
	}
	for range r.rng.IntN(40) {
		name := []string{"user.", "trusted."}[r.rng.IntN(2)] + fmt.Sprintf("%.*d", 1+r.rng.IntN(20), r.rng.IntN(1000))
		v := make([]byte, r.rng.IntN(40))
		for i := range v {
			v[i] = byte(r.rng.Uint32())
		}
		attrs[name] = v
	}
	if r.rng.IntN(2) == 0 {
		attrs["security.capability"] = []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	}
	if r.rng.IntN(2) == 0 {
		attrs["system.posix_acl_access"] = testACL()
	}
	return attrs
}

// testACL is user::rwx user:1000:r-- group::r-x group:70000:--- mask::r-x other::---.
func testACL() []byte {
	b := le.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, 1<<32 - 1}, {2, 4, 1000}, {4, 5, 1<<32 - 1}, {8, 0, 70000}, {16, 5, 1<<32 - 1}, {32, 0, 1<<32 - 1}} {
		b = le.AppendUint16(b, uint16(e[0]))
		b = le.AppendUint16(b, uint16(e[1]))
		b = le.AppendUint32(b, e[2])
	}
	return b
}
