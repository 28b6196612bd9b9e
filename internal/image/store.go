package image

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/image/registry"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Store is a cache of converted images. See the package comment.
type Store struct {
	opts   Options
	disk   disk
	client *registry.Client
	ingest *ingest
	lock   *os.File

	life context.Context // of the flights
	end  context.CancelCauseFunc
	wg   sync.WaitGroup // flights

	mu      sync.Mutex
	closed  bool
	stats   Stats // the counters only
	images  map[manifest.Digest]*entry
	refs    map[string]reference
	flights map[string]*flight
}

var _ machine.Images = (*Store)(nil)

// Open opens the store in opts.Dir, and removes what an earlier one that
// crashed left half done. IMAGE_STORE_LOCKED says that another daemon has it.
// The caller closes the Store.
func Open(opts Options) (*Store, error) {
	return open(opts, osDisk{})
}

func open(opts Options, d disk) (*Store, error) {
	opts = opts.withDefaults()
	s := &Store{
		opts:    opts,
		disk:    d,
		images:  make(map[manifest.Digest]*entry),
		refs:    make(map[string]reference),
		flights: make(map[string]*flight),
	}
	for _, dir := range []string{"base", "refs", "ingest", "tmp"} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			return nil, fmt.Errorf("make image store: %w", err)
		}
	}
	var err error
	if s.lock, err = lockDir(s.path("lock")); err != nil {
		return nil, err
	}
	s.ingest = &ingest{dir: s.path("ingest"), tmp: s.path("tmp"), disk: d, busy: make(map[string]bool)}
	if err := s.sweep(); err != nil {
		s.lock.Close()
		return nil, err
	}
	s.client = registry.New(registry.Options{
		Insecure:        opts.Insecure,
		RootCAs:         opts.RootCAs,
		Proxy:           opts.Proxy,
		HostCredentials: opts.HostCredentials,
		StallTimeout:    opts.StallTimeout,
		RetryPause:      opts.RetryPause,
	})
	s.life, s.end = context.WithCancelCause(context.Background())
	return s, nil
}

// sweep removes what has no meaning any more, and loads the rest.
func (s *Store) sweep() error {
	for _, path := range s.list("tmp") {
		if err := s.disk.remove("sweep", path); err != nil {
			return err
		}
	}
	if err := s.ingest.sweep(time.Now().Add(-partialAge)); err != nil {
		return err
	}
	return s.load()
}

// Close ends the pulls that are under way and waits for them. Leased bases stay
// usable. It is idempotent.
func (s *Store) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	s.end(errClosed)
	s.wg.Wait()
	if !first {
		return nil
	}
	s.client.Close()
	return s.lock.Close()
}
