package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/layer"
)

// members are the files of an archive or folder.
type members interface {
	// opener checks that the file is there, and returns how to open it.
	opener(name string) (func(ctx context.Context) (io.ReadCloser, error), error)
}

// read returns a document of at most limit bytes.
func read(ctx context.Context, m members, name string, limit int64) ([]byte, error) {
	open, err := m.opener(name)
	if err != nil {
		return nil, err
	}
	f, err := open(ctx)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, errdefs.New(errdefs.Exhausted, "IMAGE_MANIFEST_TOO_LARGE", "image has a document %.100q of more than %d bytes", name, limit)
	}
	return b, nil
}

func missing(name string) error {
	return errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "archive has no file %.200q", name)
}

// folder is a folder of the host.
type folder struct{ root *os.Root }

func (d folder) opener(name string) (func(context.Context) (io.ReadCloser, error), error) {
	info, err := d.root.Stat(name)
	if err != nil || !info.Mode().IsRegular() {
		return nil, missing(name)
	}
	return func(context.Context) (io.ReadCloser, error) { return d.open(name) }, nil
}

// open does not wait where a FIFO has taken the file's place.
func (d folder) open(name string) (io.ReadCloser, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open image file: %w", err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, missing(name)
	}
	return f, nil
}

// Bounds of the table of an archive. One of 256 layers has some 800 members,
// and the longest name with a meaning is that of a sha512 blob, 141 bytes.
const (
	maxMembers    = 1 << 14
	maxMemberName = 255
)

// table says where the members of an uncompressed tar archive are.
type table struct {
	f     *os.File
	at    map[string]span
	links map[string]string
}

type span struct{ offset, size int64 }

func readTable(ctx context.Context, f *os.File) (*table, error) {
	t := &table{f: f, at: make(map[string]span), links: make(map[string]string)}
	r := io.NewSectionReader(f, 0, 1<<62)
	tr := tar.NewReader(r)
	for range maxMembers {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, explain(ctx, err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if len(h.Name) > maxMemberName || len(h.Linkname) > maxMemberName {
			return nil, layer.Corrupt(nil, "archive of an image has a member with a name of more than %d bytes", maxMemberName)
		}
		// A string of its own: the header's may be a part of a much longer one.
		name := strings.Clone(path.Clean(h.Name))
		switch h.Typeflag {
		case tar.TypeReg:
			// The reader takes whole blocks and no more: the content begins
			// where it stands. Sparse files, which it would have to expand,
			// have a map there instead; no tool makes them of an image.
			offset, err := r.Seek(0, io.SeekCurrent)
			if err != nil {
				return nil, fmt.Errorf("read archive: %w", err)
			}
			t.at[name] = span{offset, h.Size}
			delete(t.links, name)
		case tar.TypeSymlink: // docker save before version 25 has equal layers once
			t.links[name] = path.Join(path.Dir(name), h.Linkname)
			delete(t.at, name)
		case tar.TypeLink:
			t.links[name] = strings.Clone(path.Clean(h.Linkname))
			delete(t.at, name)
		}
	}
	return nil, errdefs.New(errdefs.Exhausted, "IMAGE_TOO_MANY_ENTRIES", "archive of an image has more than %d members", maxMembers)
}

func (t *table) has(name string) bool {
	_, err := t.opener(name)
	return err == nil
}

func (t *table) opener(name string) (func(context.Context) (io.ReadCloser, error), error) {
	name = path.Clean(name)
	for range 8 { // links to links
		if s, ok := t.at[name]; ok {
			return section(t.f, s.offset, s.size), nil
		}
		next, ok := t.links[name]
		if !ok {
			break
		}
		name = next
	}
	return nil, missing(name)
}

// section opens a part of f; a size of -1 means all of the rest.
func section(f *os.File, offset, size int64) func(context.Context) (io.ReadCloser, error) {
	if size < 0 {
		size = 1<<62 - offset
	}
	return func(ctx context.Context) (io.ReadCloser, error) {
		return &sectionReader{ctx, io.NewSectionReader(f, offset, size)}, nil
	}
}

// sectionReader fails when its context ends.
type sectionReader struct {
	ctx context.Context
	*io.SectionReader
}

func (s *sectionReader) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	return s.SectionReader.Read(p)
}

func (s *sectionReader) Close() error { return nil }
