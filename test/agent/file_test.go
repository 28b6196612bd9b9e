package agent_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// sparse gives n bytes that are mostly zero.
type sparse struct{ at, n int64 }

func (s *sparse) Read(p []byte) (int, error) {
	if s.at == s.n {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), s.n-s.at))
	clear(p[:n])
	p[0] = byte(s.at >> 20)
	s.at += int64(n)
	return n, nil
}

func TestGigabyteStreamsInAndOut(t *testing.T) {
	p := newPair(t)
	const size = 1 << 30
	name := filepath.Join(t.TempDir(), "big")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	info, r, err := p.ReadFile(p.ctx(), name)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	if err := errors.Join(err, r.Close()); err != nil || n != size || info.Size != size {
		t.Errorf("read %d of %d bytes: %v", n, info.Size, err)
	}
	const half = 64 << 20 // written for real
	if n, err := p.WriteFile(p.ctx(), name, 0o640, &sparse{n: half}); err != nil || n != half {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
	if st, err := os.Stat(name); err != nil || st.Size() != half || st.Mode() != 0o640 {
		t.Errorf("file is %v, %v", st, err)
	}
}

func TestFileContentIsExact(t *testing.T) {
	p := newPair(t)
	name := filepath.Join(t.TempDir(), "na\xffme")
	content := make([]byte, 3<<20+17)
	for i := range content {
		content[i] = byte(i * i >> 7)
	}
	if _, err := p.WriteFile(p.ctx(), name, 0o600, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	_, r, err := p.ReadFile(p.ctx(), name)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || sha256.Sum256(got) != sha256.Sum256(content) {
		t.Errorf("%d bytes: %v", len(got), err)
	}
}

func TestInterruptedWriteLeavesTheOldFile(t *testing.T) {
	p := newPair(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	if _, err := p.WriteFile(p.ctx(), name, 0o644, bytes.NewReader([]byte("old"))); err != nil {
		t.Fatal(err)
	}
	bad := errors.New("source broke")
	for what, r := range map[string]io.Reader{
		"source": io.MultiReader(&sparse{n: 1 << 20}, errReader{bad}),
		"break":  io.MultiReader(&sparse{n: 1 << 20}, breaker{p}, &sparse{n: 1 << 20}),
	} {
		if _, err := p.WriteFile(p.ctx(), name, 0o644, r); err == nil {
			t.Errorf("%s: no error", what)
		}
		if _, status := p.mustRun("true"); status.Code != 0 {
			t.Errorf("%s: %+v", what, status)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != "old" {
			t.Errorf("%s: file holds %d bytes, %v", what, len(b), err)
		}
		if err := awaitOnly(p, dir, "file"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

type errReader struct{ error }

func (r errReader) Read([]byte) (int, error) { return 0, r.error }

type breaker struct{ p *pair }

func (b breaker) Read([]byte) (int, error) { b.p.breakSession(); return 0, io.EOF }

// awaitOnly waits until dir holds the one name: the agent may still be at its
// clean-up. Each look is a round trip through the agent.
func awaitOnly(p *pair, dir, name string) error {
	var names []string
	for ctx := p.ctx(); ctx.Err() == nil; {
		list, err := p.List(ctx, dir)
		if err != nil {
			return err
		}
		names = names[:0]
		for _, fi := range list {
			names = append(names, filepath.Base(fi.Path))
		}
		if len(names) == 1 && names[0] == name {
			return nil
		}
	}
	return fmt.Errorf("folder holds %q", names)
}

func TestFileNamesAndErrors(t *testing.T) {
	p := newPair(t)
	dir := t.TempDir()
	ctx := p.ctx()
	steps := []error{
		p.Mkdir(ctx, dir+"/a/b", 0o750, true),
		p.Rename(ctx, dir+"/a/b", dir+"/a/c"),
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	fi, err := p.Stat(ctx, dir+"/a/c")
	if err != nil || fi.Mode != fs.ModeDir|0o750 {
		t.Errorf("stat: %+v, %v", fi, err)
	}
	for what, tt := range map[string]struct {
		err  error
		kind errdefs.Kind
	}{
		"stat of nothing": {second(p.Stat(ctx, dir+"/x")), errdefs.NotFound},
		"full folder":     {p.Remove(ctx, dir+"/a", false), errdefs.Conflict},
		"existing folder": {p.Mkdir(ctx, dir+"/a", 0o755, false), errdefs.Conflict},
		"relative path":   {p.Remove(ctx, "a", false), errdefs.Invalid},
	} {
		if !errdefs.Is(tt.err, tt.kind) {
			t.Errorf("%s: %v is %s, want %s", what, tt.err, errdefs.KindOf(tt.err), tt.kind)
		}
	}
	if err := p.Remove(ctx, dir+"/a", true); err != nil {
		t.Error(err)
	}
	_, r, err := p.ReadFile(ctx, "/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil || !bytes.Contains(b, []byte("VmRSS")) {
		t.Errorf("file of /proc: %d bytes, %v", len(b), err)
	}
}

func second[T any](_ T, err error) error { return err }
