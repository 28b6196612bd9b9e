package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
)

var acceptManifests = strings.Join([]string{
	manifest.OCIIndex, manifest.DockerList, manifest.OCIManifest, manifest.DockerManifest,
}, ", ")

// Head asks which digest a tag or digest stands for now. It answers "" where
// the registry does not say.
func (r *Repository) Head(ctx context.Context, identifier string) (manifest.Digest, error) {
	var digest manifest.Digest
	err := r.client.retry(ctx, func(ctx context.Context, _ func()) (bool, error) {
		resp, err := r.do(ctx, http.MethodHead, "/manifests/"+identifier, 0)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		digest, err = manifest.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
		if err != nil {
			digest = ""
		}
		return false, nil
	})
	return digest, r.explain(ctx, err, identifier)
}

// Manifest returns the document that a tag or digest names, of at most limit
// bytes, and what the registry says of its type. The document of a digest has
// that digest.
func (r *Repository) Manifest(ctx context.Context, identifier string, limit int64) ([]byte, string, error) {
	b, contentType, err := r.small(ctx, "/manifests/"+identifier, limit)
	if err != nil {
		return nil, "", r.explain(ctx, err, identifier)
	}
	if d, err := manifest.ParseDigest(identifier); err == nil {
		if err := verify(b, d); err != nil {
			return nil, "", err
		}
	}
	return b, contentType, nil
}

// Config returns a small blob, checked against its digest and size.
func (r *Repository) Config(ctx context.Context, d manifest.Descriptor, limit int64) ([]byte, error) {
	b, _, err := r.small(ctx, "/blobs/"+string(d.Digest), limit)
	if err != nil {
		return nil, r.explain(ctx, err, string(d.Digest))
	}
	return b, verify(b, d.Digest)
}

func verify(b []byte, d manifest.Digest) error {
	h := d.NewHash()
	h.Write(b)
	if !d.Matches(h) {
		return errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "registry sends other content for %s than its digest says", d)
	}
	return nil
}

func (r *Repository) small(ctx context.Context, path string, limit int64) (b []byte, contentType string, err error) {
	err = r.client.retry(ctx, func(ctx context.Context, touch func()) (bool, error) {
		resp, err := r.do(ctx, http.MethodGet, path, 0)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		contentType, _, _ = strings.Cut(resp.Header.Get("Content-Type"), ";")
		b, err = io.ReadAll(io.LimitReader(touching{resp.Body, touch}, limit+1))
		if int64(len(b)) > limit {
			return false, errdefs.New(errdefs.Exhausted, "IMAGE_MANIFEST_TOO_LARGE", "image has a manifest or config of more than %d bytes", limit)
		}
		return false, err
	})
	return b, contentType, err
}

// minProgress is what an attempt must bring to count as none that failed, so
// that a registry cannot hold us with a byte at a time.
const minProgress = 1 << 20

// Fetch appends the blob's bytes from offset on to w, over as many attempts as
// it takes, each where the last was cut. It checks the length, not the digest.
// Errors of w are returned as they are.
func (r *Repository) Fetch(ctx context.Context, d manifest.Descriptor, offset int64, w io.Writer) error {
	dl := &download{repo: r, blob: d, offset: offset, w: w}
	err := r.client.retry(ctx, func(ctx context.Context, touch func()) (bool, error) {
		before := dl.offset
		err := dl.attempt(ctx, touch)
		return dl.offset-before >= minProgress, err
	})
	if dl.writeErr != nil {
		return dl.writeErr
	}
	return r.explain(ctx, err, string(d.Digest))
}

type download struct {
	repo     *Repository
	blob     manifest.Descriptor
	offset   int64
	noRange  bool // the registry cannot begin in the middle
	w        io.Writer
	writeErr error
}

func (dl *download) attempt(ctx context.Context, touch func()) error {
	if dl.offset == dl.blob.Size {
		return nil
	}
	from := dl.offset
	if dl.noRange {
		from = 0
	}
	resp, err := dl.repo.do(ctx, http.MethodGet, "/blobs/"+string(dl.blob.Digest), from)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	start, err := dl.start(resp, from)
	if err != nil {
		return err
	}
	if resp.ContentLength >= 0 && start+resp.ContentLength != dl.blob.Size {
		return dl.wrongLength(start + resp.ContentLength)
	}
	in := touching{resp.Body, touch}
	if _, err := io.CopyN(io.Discard, in, dl.offset-start); err != nil {
		return cut(err)
	}
	return dl.copy(in)
}

// start says at which offset of the blob the answer begins.
func (dl *download) start(resp *http.Response, asked int64) (int64, error) {
	switch {
	case resp.StatusCode == http.StatusOK:
		return 0, nil
	case resp.StatusCode == http.StatusPartialContent && strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", asked)):
		return asked, nil
	case asked == 0:
		return 0, dl.wrongLength(0)
	default:
		dl.noRange = true
		return 0, fmt.Errorf("range from %d answered with status %d, %q", asked, resp.StatusCode, resp.Header.Get("Content-Range"))
	}
}

func (dl *download) copy(in io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if int64(n) > dl.blob.Size-dl.offset {
			return dl.wrongLength(-1)
		}
		if n > 0 {
			if _, dl.writeErr = dl.w.Write(buf[:n]); dl.writeErr != nil {
				return errRefused // not worth another attempt; Fetch returns writeErr
			}
			dl.offset += int64(n)
		}
		if errors.Is(err, io.EOF) && dl.offset == dl.blob.Size {
			return nil
		}
		if err != nil {
			return cut(err)
		}
	}
}

func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (dl *download) wrongLength(got int64) error {
	if got < 0 {
		return errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "registry sends more than the %d bytes that the manifest says for %s", dl.blob.Size, dl.blob.Digest)
	}
	return errdefs.New(errdefs.Invalid, "IMAGE_CORRUPT", "registry has %d bytes for %s, the manifest says %d", got, dl.blob.Digest, dl.blob.Size)
}

// do makes one request, from an offset on if it is not 0. The caller closes
// the body of the answer, which is a success or 416.
func (r *Repository) do(ctx context.Context, method, path string, offset int64) (*http.Response, error) {
	u := r.url
	u.Path += path
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(path, "/manifests/") {
		req.Header.Set("Accept", acceptManifests)
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return nil, err
	}
	ok := []int{http.StatusOK}
	if offset > 0 {
		ok = append(ok, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	}
	if err := transport.CheckError(resp, ok...); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}
