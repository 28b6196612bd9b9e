package hyperfleet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Image is an image that is ready to boot.
type Image struct {
	Ref       string      `json:"ref" doc:"Normalized reference; its digest when no name is left"`
	Digest    string      `json:"digest" doc:"Manifest digest" example:"sha256:..."`
	SizeBytes int64       `json:"size_bytes" doc:"Disk space that it takes"`
	Config    ImageConfig `json:"config"`

	// What the cache knows of it; a pull does not tell.
	Refs       []string   `json:"refs,omitempty" doc:"Every reference that names it"`
	InUse      bool       `json:"in_use,omitempty" doc:"A machine needs it"`
	CreatedAt  *time.Time `json:"created_at,omitempty"`
	LastUsedAt *time.Time `json:"last_used_at,omitempty"`
}

// ImageConfig is the part of the OCI image config that machines use.
type ImageConfig struct {
	Env          []string          `json:"env,omitempty"`
	Entrypoint   []string          `json:"entrypoint,omitempty"`
	Cmd          []string          `json:"cmd,omitempty"`
	WorkingDir   string            `json:"working_dir,omitempty"`
	User         string            `json:"user,omitempty"`
	Volumes      []string          `json:"volumes,omitempty"`
	ExposedPorts []string          `json:"exposed_ports,omitempty"`
	Labels       map[string]string `json:"labels,omitempty"`
	StopSignal   string            `json:"stop_signal,omitempty"`
	Architecture string            `json:"architecture,omitempty"`
}

// PullRequest asks for an image.
type PullRequest struct {
	Image        string        `json:"image" minLength:"1" maxLength:"1024" example:"alpine:3.20"`
	RegistryAuth *RegistryAuth `json:"registry_auth,omitempty" doc:"Login for the registry; never stored"`
}

// PullProgress is one step of a pull. Total is 0 while unknown.
type PullProgress struct {
	Phase   string `json:"phase" doc:"resolve, pull, convert or done"`
	Layer   string `json:"layer,omitempty"`
	Current int64  `json:"current,omitempty" doc:"Bytes"`
	Total   int64  `json:"total,omitempty" doc:"Bytes"`
}

// PullEvent is one line of a pull's progress: exactly one field is set. The
// last line has Image or Error.
type PullEvent struct {
	Progress *PullProgress `json:"progress,omitempty"`
	Image    *Image        `json:"image,omitempty"`
	Status   int           `json:"status,omitempty" doc:"HTTP status beside error"`
	Error    *ErrorBody    `json:"error,omitempty"`
}

const contentNDJSON = "application/x-ndjson"

// PullImage makes an image ready to boot. progress, unless nil, is called for
// each step by the calling goroutine.
func (c *Client) PullImage(ctx context.Context, req PullRequest, progress func(PullProgress), options ...CallOption) (Image, error) {
	resp, err := c.send(ctx, call{
		method: http.MethodPost, path: "/images/pull", in: req, header: http.Header{"Accept": {contentNDJSON}},
	}.with(options))
	if err != nil {
		return Image{}, err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(bufio.NewReader(resp.Body))
	for {
		var ev PullEvent
		if err := dec.Decode(&ev); err != nil {
			return Image{}, fmt.Errorf("pull %s: read progress: %w", req.Image, unexpected(err))
		}
		switch {
		case ev.Image != nil:
			return *ev.Image, nil
		case ev.Error != nil:
			return Image{}, &Error{
				Status: ev.Status, Name: ev.Error.Error, Code: ev.Error.Code, Message: ev.Error.Message,
				Details: ev.Error.Details, RequestID: resp.Header.Get(headerRequestID),
			}
		case ev.Progress != nil && progress != nil:
			progress(*ev.Progress)
		}
	}
}

// ImportImage makes an image of an archive: of `docker save`, of an OCI layout,
// or of a root filesystem. Tar, gzip and zstd are told apart by content.
func (c *Client) ImportImage(ctx context.Context, name string, archive io.Reader) (Image, error) {
	var img Image
	err := c.do(ctx, call{
		method: http.MethodPost, path: "/images/import", query: url.Values{"name": {name}}, body: archive,
		header: http.Header{"Content-Type": {"application/x-tar"}},
	}, &img)
	return img, err
}

// ListImages lists the images that are ready.
func (c *Client) ListImages(ctx context.Context) ([]Image, error) {
	var list []Image
	err := c.do(ctx, call{method: http.MethodGet, path: "/images"}, &list)
	return list, err
}

// Image returns one image, by reference, digest, or the beginning of its digest
// (six digits at least).
func (c *Client) Image(ctx context.Context, ref string) (Image, error) {
	var img Image
	err := c.do(ctx, call{method: http.MethodGet, path: imagePath(ref)}, &img)
	return img, err
}

// DeleteImage removes a name, and with the last one the image; by a digest, or
// the beginning of one, it removes the image with all names. One that machines
// use is ErrConflict.
func (c *Client) DeleteImage(ctx context.Context, ref string) error {
	return c.do(ctx, call{method: http.MethodDelete, path: imagePath(ref)}, nil)
}

// PruneRequest narrows a prune. Its zero value prunes everything unused.
type PruneRequest struct {
	// UnusedFor is in seconds.
	UnusedFor float64 `json:"unused_for,omitempty" minimum:"0" maximum:"3153600000" doc:"Seconds: only images that nobody has used for so long"`
}

// PruneResult is what a prune has removed.
type PruneResult struct {
	Removed    []Image `json:"removed"`
	BytesFreed int64   `json:"bytes_freed" doc:"Disk space, that of unfinished downloads included"`
}

// PruneImages removes the images that no machine uses: a machine uses its image
// from its creation on. unusedFor, unless 0, spares what was used since.
func (c *Client) PruneImages(ctx context.Context, unusedFor time.Duration) (PruneResult, error) {
	var res PruneResult
	err := c.do(ctx, call{method: http.MethodPost, path: "/images/prune", in: PruneRequest{UnusedFor: unusedFor.Seconds()}}, &res)
	return res, err
}

// imagePath keeps the slashes of ref.
func imagePath(ref string) string {
	parts := strings.Split(ref, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "/images/" + strings.Join(parts, "/")
}

// unexpected turns an EOF, where more should come, into an error that says so.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
