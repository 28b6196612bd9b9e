package httpapi

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const ndjson = "application/x-ndjson"

func (s *Server) registerImages() {
	tags := []string{"images"}
	register(s, huma.Operation{OperationID: "listImages", Security: needs(auth.ImagesRead), Method: http.MethodGet, Path: "/images", Tags: tags, Summary: "List images that are ready"}, s.listImages, ofStore)
	register(s, s.idempotent(huma.Operation{
		OperationID: "pullImage", Security: needs(auth.ImagesWrite), Method: http.MethodPost, Path: "/images/pull", Tags: tags, Summary: "Make an image ready",
		Description: "Answers when it is ready, or with `Accept: application/x-ndjson` at once, with one event for each line.",
		Responses: map[string]*huma.Response{"200": {Description: "The image", Content: map[string]*huma.MediaType{
			"application/json": {Schema: schemaOf[hyperfleet.Image](s)}, ndjson: {Schema: schemaOf[hyperfleet.PullEvent](s)},
		}}},
	}, runAgain), s.pullImage, ofRegistry, failures{errdefs.Throttled})
	register(s, huma.Operation{
		OperationID: "importImage", Security: needs(auth.ImagesWrite), Method: http.MethodPost, Path: "/images/import", Tags: tags, Summary: "Make an image of an archive",
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/x-tar": {Schema: &huma.Schema{Type: "string", Format: "binary", MinLength: new(1)}},
		}},
	}, s.importImage, ofRegistry, failures{errdefs.Conflict, errdefs.Throttled})
	register(s, huma.Operation{
		OperationID: "pruneImages", Security: needs(auth.ImagesWrite), Method: http.MethodPost, Path: "/images/prune", Tags: tags, Summary: "Remove the images that no machine uses",
		Description: "A machine uses its image from its creation on, started or not. Unfinished downloads go too.",
	}, s.pruneImages, failures{errdefs.Exhausted, errdefs.Unavailable})
	register(s, huma.Operation{OperationID: "getImage", Security: needs(auth.ImagesRead), Method: http.MethodGet, Path: "/images/{ref...}", Tags: tags, Summary: "Get an image by reference or digest"}, s.getImage, failures{errdefs.Invalid, errdefs.NotFound, errdefs.Unavailable})
	register(s, huma.Operation{OperationID: "deleteImage", Security: needs(auth.ImagesWrite), Method: http.MethodDelete, Path: "/images/{ref...}", Tags: tags, Summary: "Remove an image", DefaultStatus: http.StatusNoContent}, s.deleteImage, failures{errdefs.Invalid, errdefs.NotFound, errdefs.Conflict, errdefs.Unavailable})
}

func imageView(img machine.Image) hyperfleet.Image {
	c := img.Config
	return hyperfleet.Image{
		Ref: img.Ref, Digest: img.Digest, SizeBytes: img.SizeBytes,
		Config: hyperfleet.ImageConfig{
			Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, User: c.User, Volumes: c.Volumes,
			ExposedPorts: c.ExposedPorts, Labels: c.Labels, StopSignal: c.StopSignal, Architecture: c.Architecture,
		},
	}
}

func cachedView(c CachedImage) hyperfleet.Image {
	img := imageView(c.Image)
	created, used := wireTime(c.Created), wireTime(c.LastUsed)
	img.Refs, img.InUse, img.CreatedAt, img.LastUsedAt = c.Refs, c.InUse, &created, &used
	return img
}

func (s *Server) listImages(ctx context.Context, _ *struct{}) (*response[[]hyperfleet.Image], error) {
	list, err := s.cfg.Images.List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]hyperfleet.Image, len(list))
	for i, img := range list {
		out[i] = cachedView(img)
	}
	return &response[[]hyperfleet.Image]{out}, nil
}

type pullInput struct {
	Accept string `header:"Accept" doc:"application/x-ndjson for progress"`
	Body   hyperfleet.PullRequest
}

func (s *Server) pullImage(ctx context.Context, in *pullInput) (*huma.StreamResponse, error) {
	req := machine.ImageRequest{Ref: in.Body.Image}
	if a := in.Body.RegistryAuth; a != nil {
		req.Auth = &machine.RegistryAuth{Username: a.Username, Password: a.Password}
	}
	release, err := s.pullLimit.take(ctx)
	if err != nil {
		return nil, err
	}
	if strings.Contains(in.Accept, ndjson) {
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer release()
			s.pullEvents(hc, req)
		}}, nil
	}
	defer release()
	lease, err := s.cfg.Images.Resolve(ctx, req)
	if err != nil {
		return nil, err
	}
	lease.Release()
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		hc.SetHeader("Content-Type", "application/json")
		hc.SetStatus(http.StatusOK)
		_ = json.NewEncoder(hc.BodyWriter()).Encode(imageView(lease.Image)) // the caller is gone if this fails
	}}, nil
}

// pullEvents pulls and writes one line for each event.
func (s *Server) pullEvents(hc huma.Context, req machine.ImageRequest) {
	hc.SetHeader("Content-Type", ndjson)
	hc.SetStatus(http.StatusOK)
	_, w := humago.Unwrap(hc)
	events := &eventWriter{enc: json.NewEncoder(w), ctl: http.NewResponseController(w)}
	req.Progress = func(p machine.ImageProgress) {
		events.write(hyperfleet.PullEvent{Progress: &hyperfleet.PullProgress{Phase: p.Phase, Layer: p.Layer, Current: p.Current, Total: p.Total}})
	}
	lease, err := s.cfg.Images.Resolve(hc.Context(), req)
	if err != nil {
		onceOf(hc.Context()).setFailed()
		e := s.failure(hc.Context(), err)
		events.end(hyperfleet.PullEvent{Status: e.status, Error: &e.body})
		return
	}
	lease.Release()
	img := imageView(lease.Image)
	events.end(hyperfleet.PullEvent{Image: &img})
}

// eventWriter writes lines of JSON, from any goroutine, until its end.
type eventWriter struct {
	mu    sync.Mutex
	enc   *json.Encoder
	ctl   *http.ResponseController
	ended bool
}

func (e *eventWriter) write(v any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return
	}
	if e.enc.Encode(v) != nil || e.ctl.Flush() != nil {
		e.ended = true // the caller is gone; its context says so to the pull
	}
}

func (e *eventWriter) end(v any) {
	e.write(v)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended = true
}

type importInput struct {
	StreamedBody
	Name string `query:"name" required:"true" minLength:"1" maxLength:"1024" doc:"Reference that the image gets"`
}

func (s *Server) importImage(ctx context.Context, in *importInput) (*response[hyperfleet.Image], error) {
	release, err := s.pullLimit.take(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	body := &watchedReader{r: in.body}
	if in.body == http.NoBody {
		return nil, refusal(http.StatusBadRequest, "request body is required")
	}
	img, err := s.cfg.Images.Import(ctx, in.Name, struct{ io.Reader }{body})
	if body.err != nil {
		return nil, bodyError(body.err)
	}
	if err != nil {
		return nil, err
	}
	return &response[hyperfleet.Image]{imageView(img)}, nil
}

type pruneInput struct {
	Body *hyperfleet.PruneRequest
}

func (s *Server) pruneImages(ctx context.Context, in *pruneInput) (*response[hyperfleet.PruneResult], error) {
	var unusedFor time.Duration
	if in.Body != nil {
		unusedFor = seconds(in.Body.UnusedFor)
	}
	gone, freed, err := s.cfg.Images.Prune(ctx, unusedFor)
	if err != nil {
		return nil, err
	}
	out := hyperfleet.PruneResult{Removed: make([]hyperfleet.Image, len(gone)), BytesFreed: freed}
	for i, img := range gone {
		out.Removed[i] = cachedView(img)
	}
	return &response[hyperfleet.PruneResult]{out}, nil
}

type imageRef struct {
	Ref string `path:"ref" maxLength:"1024" doc:"Reference, digest, or at least six digits of its beginning; slashes stand for themselves"`
}

func (s *Server) getImage(ctx context.Context, in *imageRef) (*response[hyperfleet.Image], error) {
	img, err := s.cfg.Images.Lookup(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	return &response[hyperfleet.Image]{cachedView(img)}, nil
}

func (s *Server) deleteImage(ctx context.Context, in *imageRef) (*struct{}, error) {
	return nil, s.cfg.Images.Delete(ctx, in.Ref)
}
