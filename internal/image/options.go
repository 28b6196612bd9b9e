package image

import (
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/layer"
)

// Options are the choices for a Store. Only Dir is needed.
type Options struct {
	// Dir holds everything; see the package comment. One Store at a time
	// may use it. It is made if missing.
	Dir string

	// MaxBytes bounds the disk space of all images together. When an image
	// that came in exceeds it, the least recently used ones go until nine
	// tenths are left. Default 10 GiB (10737418240).
	MaxBytes int64

	// InUse says which images, by manifest digest or normalized reference,
	// machines still need. It is called often, from any goroutine, and must not call the Store.
	// Nil means none.
	InUse func() map[string]bool

	// Architecture of the images, as GOARCH has it. Default: this host's.
	Architecture string

	// Limits bound what one image may cost.
	Limits Limits

	// Insecure lists registries (host or host:port) that plain HTTP is
	// allowed for, beside loopback.
	Insecure []string

	// RootCAs are the authorities that registries are checked against;
	// nil means the system's.
	RootCAs *x509.CertPool

	// Proxy finds the proxy of a request to a registry; nil means none.
	Proxy func(*http.Request) (*url.URL, error)

	// HostCredentials uses the Docker or Podman credential files, and the
	// helpers they name, of the daemon's user for requests without a login.
	HostCredentials bool

	// StallTimeout is how long a registry may send nothing, and RetryPause
	// the pause before the first retry. Defaults 30 s and 250 ms.
	StallTimeout time.Duration
	RetryPause   time.Duration

	// Logger takes what no caller is told. Default: nothing is logged.
	Logger *slog.Logger
}

// Limits bound what one image may cost, against images made to exhaust us. A
// zero field has its default.
//
// What an ordinary image takes while it is converted is some 25 MiB of memory
// with gzip layers and 40 MiB with zstd layers, and 85 MiB where those have the
// largest windows that are read, 32 MiB. What grows with an image are its
// entries and their metadata: those of a Debian take 5 MiB. At the defaults,
// measured as the peak of a process that imports one image:
//
//	490 000 files in 4900 directories               260 MiB
//	490 000 empty directories                       310 MiB
//	105 000 files with an extended attribute each   190 MiB
//
// BenchmarkConversion and BenchmarkConversionLimits print these figures.
type Limits struct {
	Bytes         int64         // uncompressed bytes, holes included; default 64 GiB; IMAGE_TOO_LARGE
	Entries       int64         // entries of all layers, and directories that none describes; default 500 000; IMAGE_TOO_MANY_ENTRIES
	MetadataBytes int64         // names, link targets and attributes of all entries; default 64 MiB; IMAGE_METADATA_TOO_LARGE
	Layers        int           // default 256 (Docker makes 127 at most); IMAGE_TOO_MANY_LAYERS
	ManifestBytes int64         // manifest, index or config; default 4 MiB, as registries have it; IMAGE_MANIFEST_TOO_LARGE
	PathDepth     int           // components of a path; default 256; IMAGE_PATH_TOO_DEEP
	XattrBytes    int           // extended attributes of one file; default 4000, what ext4 holds in a block; IMAGE_XATTRS_TOO_LARGE
	Time          time.Duration // of one pull and conversion; default 1 h; IMAGE_TIMEOUT
	Parallel      int           // layers at a time; default 4
}

func (o Options) withDefaults() Options {
	setDefault(&o.MaxBytes, 10<<30)
	setDefault(&o.Architecture, runtime.GOARCH)
	setDefault(&o.Limits.Bytes, 64<<30)
	setDefault(&o.Limits.Entries, 500_000)
	setDefault(&o.Limits.MetadataBytes, 64<<20)
	setDefault(&o.Limits.Layers, 256)
	setDefault(&o.Limits.ManifestBytes, 4<<20)
	setDefault(&o.Limits.PathDepth, 256)
	setDefault(&o.Limits.XattrBytes, 4000)
	setDefault(&o.Limits.Time, time.Hour)
	setDefault(&o.Limits.Parallel, 4)
	if o.InUse == nil {
		o.InUse = func() map[string]bool { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (l Limits) quota() *layer.Quota {
	return &layer.Quota{
		MaxBytes:      l.Bytes,
		MaxEntries:    l.Entries,
		MaxDepth:      l.PathDepth,
		MaxXattrBytes: l.XattrBytes,
		MaxMetadata:   l.MetadataBytes,
	}
}
