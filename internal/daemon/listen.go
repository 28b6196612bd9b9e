package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	headerTimeout = 10 * time.Second // from the connection to the end of the headers
	idleTimeout   = 2 * time.Minute  // of a kept connection
	maxHeader     = 64 << 10         // bytes
	// drainTimeout is how long requests get to end when the daemon does; their
	// contexts have ended by then.
	drainTimeout = 10 * time.Second
)

// server is one listener with the handler behind it.
type server struct {
	listener net.Listener
	handler  http.Handler
	tls      *tls.Config // nil: plain HTTP
}

// Listen opens the unix socket, the metrics' listener and the TCP port. Nothing
// is answered yet.
func (d *Daemon) Listen(ctx context.Context) error {
	if err := d.listenUnix(ctx, d.cfg.Socket()); err != nil {
		return err
	}
	if err := d.listenMetrics(ctx); err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.Address())
	if err != nil {
		return fmt.Errorf("listen on port %d (PORT sets another): %w", d.cfg.Port, err)
	}
	s := server{listener: l, handler: d.api.LoopbackHandler()}
	if s.tls, err = d.tlsConfig(); err != nil {
		return errors.Join(err, l.Close())
	}
	if d.cfg.Public() {
		s.handler = d.api.Handler()
		d.log.Warn("the API is open on all interfaces: everybody who reaches it controls this host's machines", "address", l.Addr().String(), "because", "DISABLE_AUTH=true")
	} else {
		d.log.Info("the API is bound to the loopback, since it knows no keys yet; DISABLE_AUTH=true opens it", "address", l.Addr().String())
	}
	d.add(s)
	return nil
}

// listenUnix opens a socket for our own user and the configured group. We hold
// the folder's lock: a socket that is there already is a dead daemon's.
func (d *Daemon) listenUnix(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a dead daemon's socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	d.add(server{listener: l, handler: d.api.Handler()})
	return protectSocket(path, d.cfg.SocketGroup)
}

// add makes a listener part of the daemon.
func (d *Daemon) add(s server) {
	s.listener = newLimitedListener(s.listener, d.cfg.MaxConns, d.cfg.MaxConnsOfAddress, d.log)
	d.servers = append(d.servers, s)
	d.parts.push(func() error {
		if err := s.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
}

// errStopped is why requests are cut off when the daemon ends.
var errStopped = errors.New("the daemon is stopping")

// Serve answers requests until ctx ends, and closes the Daemon. It returns nil
// when it ended because of ctx.
func (d *Daemon) Serve(ctx context.Context) error {
	requests, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		d.idempotency.Run(ctx)
		return nil
	})
	for _, s := range d.servers {
		hs := &http.Server{
			Handler:           s.handler,
			TLSConfig:         s.tls,
			ReadHeaderTimeout: d.headerTimeout,
			IdleTimeout:       d.idleTimeout,
			MaxHeaderBytes:    maxHeader,
			ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
			BaseContext:       func(net.Listener) context.Context { return requests },
		}
		group.Go(func() error {
			if err := s.serve(hs); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", s.listener.Addr(), err)
			}
			return nil
		})
		group.Go(func() error {
			<-ctx.Done()
			stop(errStopped)
			d.api.Stop()
			return shutdown(hs)
		})
	}
	return errors.Join(group.Wait(), d.Close())
}

// serve answers requests on the listener. With TLS that is HTTP/2 as well,
// beside HTTP/1.1, which streamed execs need.
func (s server) serve(hs *http.Server) error {
	if s.tls == nil {
		return hs.Serve(s.listener)
	}
	return hs.ServeTLS(s.listener, "", "")
}

// shutdown waits for requests to end, and then cuts them off. Streamed execs
// are the API's to end.
func shutdown(hs *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := hs.Shutdown(ctx); err != nil {
		return hs.Close()
	}
	return nil
}
