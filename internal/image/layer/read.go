package layer

import (
	"archive/tar"
	"context"
	"errors"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/hyperfleet/hyperfleet/internal/ext4"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

// Sink takes the content of regular files. An ext4.Writer is one.
type Sink interface {
	// Store reads exactly size bytes. It is called by one goroutine per layer.
	Store(r io.Reader, size int64) (*ext4.Data, error)
}

// Source is a layer before it is read.
type Source struct {
	// Open returns the layer as it was distributed. Its Read fails when ctx
	// ends. Read closes it.
	Open func(ctx context.Context) (io.ReadCloser, error)

	Digest manifest.Digest // of the distributed bytes; "" means not checked
	DiffID manifest.Digest // of the uncompressed archive; "" means not checked
}

// Layer is a layer that was read.
type Layer struct {
	Entries []*Entry        // in the order of the archive
	DiffID  manifest.Digest // of the uncompressed archive, as computed
	Size    int64           // of the uncompressed archive in bytes
}

// Read reads src to its end and stores the content of its files in sink.
// Errors of src.Open, of what it returned and of sink are returned as they
// are; what is wrong with the archive is IMAGE_CORRUPT, and what exceeds q has
// its own code. A second goroutine decompresses; it has ended on return.
func Read(ctx context.Context, src Source, sink Sink, q *Quota) (*Layer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	blob, err := src.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	ahead := newReadAhead()
	go ahead.fill(func(w io.Writer) error {
		return unpack(ctx, w, blob, src.Digest, q)
	})
	l, err := readArchive(ahead, src.DiffID, sink, q)
	if err != nil {
		cancel() // lets go of a blob that stands still
	}
	if aheadErr := ahead.stop(); errors.Is(err, errAhead) {
		err = aheadErr
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// unpack decompresses blob into w and checks its digest.
func unpack(ctx context.Context, w io.Writer, blob io.Reader, want manifest.Digest, q *Quota) error {
	in := &sourceReader{r: blob}
	sum := want.NewHash()
	if want != "" {
		in.hash = sum
	}
	err := decompress(&quotaWriter{w, q}, in, func() (*zstd.Decoder, func(), error) { return q.decoder(ctx) })
	if in.err != nil {
		return in.err // whatever Decompress makes of it
	}
	if err != nil {
		return err
	}
	if want != "" && !want.Matches(sum) {
		return Corrupt(nil, "layer %s has other content than its digest says", want)
	}
	return nil
}

func readArchive(r io.Reader, want manifest.Digest, sink Sink, q *Quota) (*Layer, error) {
	sum := want.NewHash()
	hashed := &sourceReader{r: r, hash: sum}
	l := &Layer{}
	tr := tar.NewReader(hashed)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, explain(err)
		}
		e, err := readEntry(tr, h, sink, q)
		if err != nil {
			return nil, err
		}
		if e != nil {
			l.Entries = append(l.Entries, e)
		}
	}
	// The tar reader takes an end of the stream for the archive's. It asks for
	// nothing after the two blocks of zeros that mark the latter, so where it
	// has met the former, there was no mark. Builders that write none exist:
	// their layers have a digest.
	if want == "" && hashed.ended {
		return nil, Corrupt(nil, "layer is cut: it has no mark of the archive's end")
	}
	if _, err := io.Copy(io.Discard, hashed); err != nil { // what follows the archive's end
		return nil, err
	}
	if want != "" && !want.Matches(sum) {
		return nil, Corrupt(nil, "layer unpacks to other content than its diff id %s says", want)
	}
	l.Size = hashed.n
	if l.DiffID = want; want == "" {
		l.DiffID = manifest.Sum(sum)
	}
	return l, nil
}

func readEntry(tr *tar.Reader, h *tar.Header, sink Sink, q *Quota) (*Entry, error) {
	if err := q.AddEntry(); err != nil {
		return nil, err
	}
	e, err := newEntry(h, q)
	if err == nil && e != nil {
		err = q.addMetadata(e.weight())
	}
	if err != nil || e == nil || e.Kind != Regular || h.Size == 0 {
		return e, err
	}
	if err := q.addContent(h.Size); err != nil {
		return nil, err
	}
	content := &sourceReader{r: tr}
	e.Data, err = sink.Store(content, h.Size)
	if content.err != nil {
		return nil, explain(content.err)
	}
	return e, err
}

// explain gives an error of the tar reader its kind.
func explain(err error) error {
	if errors.Is(err, errAhead) {
		return err
	}
	return Corrupt(err, "layer is no valid tar archive")
}

// sourceReader remembers the error of what it reads from, so that it can be
// told from an error of whoever reads it, counts, and hashes if it has a hash.
type sourceReader struct {
	r     io.Reader
	hash  hash.Hash
	n     int64 // bytes so far
	ended bool  // io.EOF was met
	err   error // the first but io.EOF
}

func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.n += int64(n)
	if s.hash != nil {
		_, _ = s.hash.Write(p[:n]) // never fails, see hash.Hash
	}
	switch {
	case errors.Is(err, io.EOF):
		s.ended = true
	case err != nil && s.err == nil:
		s.err = err
	}
	return n, err
}

// quotaWriter counts uncompressed bytes.
type quotaWriter struct {
	w io.Writer
	q *Quota
}

func (c *quotaWriter) Write(p []byte) (int, error) {
	if err := c.q.addBytes(int64(len(p))); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}
