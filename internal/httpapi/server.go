package httpapi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"reflect"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/idempotency"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Machines is what the API needs of the domain: *machine.Manager.
type Machines interface {
	Create(ctx context.Context, req machine.CreateRequest) (machine.Machine, error)
	Get(ctx context.Context, id machine.ID) (machine.Machine, error)
	List(ctx context.Context, f machine.Filter) ([]machine.Machine, int, error)
	Wait(ctx context.Context, id machine.ID, state machine.State) (machine.Machine, error)
	Start(ctx context.Context, id machine.ID) (machine.Machine, error)
	Stop(ctx context.Context, id machine.ID) (machine.Machine, error)
	Restart(ctx context.Context, id machine.ID) (machine.Machine, error)
	Pause(ctx context.Context, id machine.ID) (machine.Machine, error)
	Resume(ctx context.Context, id machine.ID) (machine.Machine, error)
	Delete(ctx context.Context, id machine.ID) error
	Exec(ctx context.Context, id machine.ID, req machine.ExecRequest) (machine.Process, error)
	AttachExec(ctx context.Context, id machine.ID, execID string, from machine.Offsets) (machine.Process, error)
	Guest(ctx context.Context, id machine.ID) (machine.Guest, error)
	Console(ctx context.Context, id machine.ID) (io.ReadCloser, error)
	Logs(ctx context.Context, id machine.ID, req machine.LogRequest) (*machine.LogReader, error)
}

// Images is what the API needs of the image cache.
type Images interface {
	Resolve(ctx context.Context, req machine.ImageRequest) (*machine.ImageLease, error)
	// Lookup finds a cached image by reference or digest; errdefs.NotFound.
	Lookup(ctx context.Context, ref string) (CachedImage, error)
	List(ctx context.Context) ([]CachedImage, error)
	// Import makes an image of an archive and gives it the name.
	Import(ctx context.Context, name string, archive io.Reader) (machine.Image, error)
	// Delete removes a cached image by reference or digest; errdefs.Conflict
	// when a machine uses it.
	Delete(ctx context.Context, ref string) error
	// Prune removes what no machine uses and nobody has used for so long, and
	// returns it with the bytes of disk space that are free now.
	Prune(ctx context.Context, unusedFor time.Duration) ([]CachedImage, int64, error)
}

// CachedImage is an image with what the cache knows of it.
type CachedImage struct {
	machine.Image
	Refs              []string
	InUse             bool
	Created, LastUsed time.Time
}

// Config is what a Server needs. Machines, Images, Keys and SpoolDir are
// required; other zero values mean the default that their field names.
type Config struct {
	Machines Machines
	Images   Images
	Keys     Keys
	Log      *slog.Logger // default: discards
	Observer Observer     // default: nobody

	Runtime    string // name of the driver, told as runtime_type
	KernelPath string // told as kernel_image_path of machines without their own
	RootfsPath string // told as rootfs_path of machines without image
	SpoolDir   string // for unlinked temporary files; must exist
	NoNetwork  error  // why machines can have no network here; nil: they can

	FileMaxSize        int64         // of a JSON upload, decoded bytes; default 100 MiB
	FileTimeout        time.Duration // of a JSON file call; default 60 s
	ExecDefaultTimeout time.Duration // of a buffered exec; default 30 s
	ExecMaxTimeout     time.Duration // longer ones are shortened; default 1 h
	ExecMaxOutput      int64         // bytes of a buffered exec; default 256 MiB
	ExecGrace          time.Duration // how long a streamed exec waits for its client; default 60 s

	// How many commands, and pulls and imports of images, may run at a time: in
	// all, and for each API key; 0 is any number.
	MaxExecs, KeyMaxExecs int
	MaxPulls, KeyMaxPulls int

	// CORSOrigins are the origins whose web pages may call the API, or "*" for
	// all; none by default.
	CORSOrigins []string
	// Ready says why the daemon cannot do its work yet; default: it can.
	Ready func(ctx context.Context) error
	// Idempotency keeps what came of requests with an Idempotency-Key; without
	// it they are refused.
	Idempotency *idempotency.Keeper
}

func (c Config) withDefaults() (Config, error) {
	if c.Machines == nil || c.Images == nil || c.Keys == nil || c.SpoolDir == "" {
		return c, errors.New("the API needs machines, images, keys and a spool directory")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observer == nil {
		c.Observer = nobody{}
	}
	if c.Ready == nil {
		c.Ready = func(context.Context) error { return nil }
	}
	c.FileMaxSize = orDefault(c.FileMaxSize, 100<<20)
	c.FileTimeout = orDefault(c.FileTimeout, time.Minute)
	c.ExecDefaultTimeout = orDefault(c.ExecDefaultTimeout, 30*time.Second)
	c.ExecMaxTimeout = orDefault(c.ExecMaxTimeout, time.Hour)
	c.ExecMaxOutput = orDefault(c.ExecMaxOutput, 256<<20)
	c.ExecGrace = orDefault(c.ExecGrace, time.Minute)
	return c, nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Server is the REST API as HTTP handlers.
type Server struct {
	cfg      Config
	mux      *http.ServeMux
	api      huma.API
	life     context.Context // of work that its caller need not wait for
	end      context.CancelFunc
	execs    *execs
	throttle *auth.Throttle

	execLimit, pullLimit *limiter
	spools               *spools
	spec                 []byte // OpenAPI document

	errorSchema *huma.Schema
	literal     literals
	typed       map[string][]string     // by mux pattern: query parameters that are not just any string
	declared    map[string]map[int]bool // by mux pattern: the statuses that the document tells of
}

// New builds the API.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	useOurErrors()
	s := &Server{cfg: cfg, mux: http.NewServeMux(), execs: newExecs(cfg.Log, cfg.ExecGrace), literal: literals{}, typed: map[string][]string{}, declared: map[string]map[int]bool{}}
	s.execLimit = newLimiter("commands", "TOO_MANY_EXECS", cfg.MaxExecs, cfg.KeyMaxExecs)
	s.pullLimit = newLimiter("pulls and imports", "TOO_MANY_PULLS", cfg.MaxPulls, cfg.KeyMaxPulls)
	s.life, s.end = context.WithCancel(context.Background())
	s.spools = newSpools(cfg.SpoolDir, max(cfg.ExecMaxOutput, cfg.FileMaxSize))
	s.throttle = auth.NewThrottle(cfg.Log)
	s.api = humago.New(s.mux, openAPIConfig())
	s.api.UseMiddleware(s.authorize)
	s.errorSchema = schemaOf[hyperfleet.ErrorBody](s)
	s.registerSystem()
	s.registerMachines()
	s.registerExec()
	s.registerFiles()
	s.registerImages()
	s.registerKeys()
	s.registerDocs()
	return s, s.finishSpec()
}

// Close ends the streamed execs and waits for them. Their commands go on, and
// clients attach again to the next daemon. Call it after the listeners have
// stopped accepting.
func (s *Server) Close() {
	s.Stop()
	s.execs.close()
}

// Stop ends the work of requests with an Idempotency-Key, which would go on
// without their callers. Call it when the listeners stop accepting.
func (s *Server) Stop() { s.end() }

// Execs is how many commands run that somebody waits for, or may come back to.
func (s *Server) Execs() int { return s.execs.running() }

var errorBodyType = reflect.TypeFor[hyperfleet.ErrorBody]()

// register adds an operation for the callers that its Security tells of: needs,
// or public. Its handler may return any error: those of errdefs become their
// public form, all others are logged and hidden. fails tells which kinds it may
// return, for the document: see failures.
func register[I, O any](s *Server, op huma.Operation, handler func(context.Context, *I) (*O, error), fails ...failures) {
	op.BodyReadTimeout = -1 // slowBody bounds it, and does not cut long handlers
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = 1 << 20
	}
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.failure(ctx, err)
		}
		return out, nil
	})
	s.literal.add(op.Method, op.Path)
	s.document(s.operation(op.Method, op.Path), slices.Concat(fails...))
}

// failure is the public form of err. What it hides goes to the log.
func (s *Server) failure(ctx context.Context, err error) *apiError {
	e := *s.publicForm(ctx, err) // it may be shared
	e.nested = requestOf(ctx).nested
	return &e
}

func (s *Server) publicForm(ctx context.Context, err error) *apiError {
	if e, ok := errors.AsType[*apiError](err); ok {
		return e
	}
	if ctx.Err() != nil && errdefs.Is(err, errdefs.Internal) {
		return publicError(errdefs.Wrap(err, errdefs.Unavailable, "CANCELED", "the caller has left")) // no defect of ours
	}
	if ctx.Err() == nil {
		level := slog.LevelDebug
		if kind := errdefs.KindOf(err); kind == errdefs.Internal || kind == errdefs.Runtime {
			level = slog.LevelError
		}
		s.logger(ctx).LogAttrs(ctx, level, "request failed", slog.Any("err", err))
	}
	return publicError(err)
}

// schemaOf documents a body that is not decoded or encoded by huma.
func schemaOf[T any](s *Server) *huma.Schema {
	return s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
}

func jsonContent(schema *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{mediaJSON: {Schema: schema}}
}

func binaryContent(types ...string) map[string]*huma.MediaType {
	content := map[string]*huma.MediaType{}
	for _, t := range types {
		content[t] = &huma.MediaType{Schema: &huma.Schema{Type: "string", Format: "binary"}}
	}
	return content
}
