package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func TestFiles(t *testing.T) {
	g, s := start(t)
	ctx := t.Context()
	want := pattern(3 << 20)
	if n, err := s.WriteFile(ctx, "/a", 0o640, bytes.NewReader(want)); err != nil || n != int64(len(want)) {
		t.Fatal(n, err)
	}
	fi, err := s.Stat(ctx, "/a")
	if err != nil || fi.Size != int64(len(want)) || fi.Mode != 0o640 || fi.Path != "/a" || fi.ModTime.IsZero() {
		t.Fatalf("%+v, %v", fi, err)
	}
	fi, r, err := s.ReadFile(ctx, "/a")
	if err != nil || fi.Size != int64(len(want)) {
		t.Fatal(fi, err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	r.Close()
	if err := s.Mkdir(ctx, "/d/e", 0o755, true); err != nil {
		t.Fatal(err)
	}
	g.SetFile("/d/odd\xff name", 0o600, nil)
	list, err := s.List(ctx, "/d")
	if err != nil || len(list) != 2 || list[0].Path != "/d/e" || !list[0].Mode.IsDir() || list[1].Path != "/d/odd\xff name" {
		t.Fatalf("%+v, %v", list, err)
	}
	requireKind(t, s.Remove(ctx, "/d", false), errdefs.Conflict, "FILE_DIRECTORY_NOT_EMPTY")
	if err := s.Rename(ctx, "/a", "/d/a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(ctx, "/d", true); err != nil {
		t.Fatal(err)
	}
	_, err = s.Stat(ctx, "/d/a")
	requireKind(t, err, errdefs.NotFound, "FILE_NOT_FOUND")
}

func TestFileErrors(t *testing.T) {
	_, s := start(t)
	ctx := t.Context()
	_, _, err := s.ReadFile(ctx, "/none")
	requireKind(t, err, errdefs.NotFound, "FILE_NOT_FOUND")
	_, _, err = s.ReadFile(ctx, "/")
	requireKind(t, err, errdefs.Invalid, "FILE_IS_A_DIRECTORY")
	_, _, err = s.ReadFile(ctx, "relative")
	requireKind(t, err, errdefs.Invalid, "BAD_REQUEST")
	_, err = s.List(ctx, "/none")
	requireKind(t, err, errdefs.NotFound, "FILE_NOT_FOUND")
	_, err = s.WriteFile(ctx, "/none/x", 0o600, bytes.NewReader(pattern(1<<20)))
	requireKind(t, err, errdefs.NotFound, "FILE_NOT_FOUND")
	requireKind(t, s.Mkdir(ctx, "/", 0o700, false), errdefs.Conflict, "FILE_EXISTS")
	requireKind(t, s.Rename(ctx, "/x", "/y\x00"), errdefs.Invalid, "BAD_REQUEST")
	_, err = s.Stat(ctx, "/"+string(pattern(4096)))
	requireKind(t, err, errdefs.Invalid, "BAD_REQUEST")
}

type brokenReader struct{ left int }

func (b *brokenReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errors.New("client went away")
	}
	n := min(len(p), b.left)
	b.left -= n
	return n, nil
}

func TestCutOffUploadLeavesOldFile(t *testing.T) {
	g, s := start(t)
	g.SetFile("/a", 0o600, []byte("old"))
	_, err := s.WriteFile(t.Context(), "/a", 0o600, &brokenReader{1 << 20})
	requireKind(t, err, errdefs.Invalid, "UPLOAD_CUT_OFF")
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() { w.Write(pattern(100_000)); cancel(); w.Close() }()
	_, err = s.WriteFile(ctx, "/a", 0o600, r)
	requireKind(t, err, errdefs.Unavailable, "CANCELED")
	r1, r2 := io.Pipe()
	go func() { r2.Write(pattern(100_000)); g.Break(); r2.Close() }()
	_, err = s.WriteFile(t.Context(), "/a", 0o600, r1)
	requireKind(t, err, errdefs.Unavailable, "GUEST_CONNECTION_LOST")
	if b, _ := g.File("/a"); string(b) != "old" {
		t.Errorf("file is %d bytes", len(b))
	}
}

func TestDownloadEndsWithContextAndBreak(t *testing.T) {
	g, s := start(t)
	g.SetFile("/a", fs.FileMode(0o600), pattern(4<<20))
	ctx, cancel := context.WithCancel(t.Context())
	_, r, err := s.ReadFile(ctx, "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cancel()
	_, err = io.Copy(io.Discard, r)
	requireKind(t, err, errdefs.Unavailable, "CANCELED")
	_, r, err = s.ReadFile(t.Context(), "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	io.CopyN(io.Discard, r, 1000)
	g.Break()
	_, err = io.Copy(io.Discard, r)
	requireKind(t, err, errdefs.Unavailable, "GUEST_CONNECTION_LOST")
}
