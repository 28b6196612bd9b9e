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
	return d.listenTCP(ctx)
}

// listenTCP opens the port: where the operator wants it, or, while there is no
// key that anybody could use there, on the loopback.
func (d *Daemon) listenTCP(ctx context.Context) error {
	address := d.cfg.Address()
	if !d.cfg.AuthDisabled() && !d.keys.HasUsable() {
		address = d.cfg.LoopbackAddress()
	}
	p, err := listenPort(ctx, address)
	if err != nil {
		return fmt.Errorf("listen on port %d (PORT sets another): %w", d.cfg.Port, err)
	}
	s := server{listener: p, handler: d.tcpHandler()}
	if s.tls, err = d.tlsConfig(); err != nil {
		return errors.Join(err, p.Close())
	}
	d.port = p
	d.add(s)
	d.tellAddress()
	return nil
}

// tcpHandler asks callers on TCP for a key, unless the operator has switched
// that off.
func (d *Daemon) tcpHandler() http.Handler {
	switch {
	case !d.cfg.AuthDisabled():
		return d.api.Handler()
	case d.cfg.Address() == d.cfg.LoopbackAddress():
		return d.api.LoopbackHandler()
	}
	return d.api.TrustedHandler()
}

func (d *Daemon) tellAddress() {
	log := d.log.With("address", d.port.Addr().String())
	switch {
	case d.cfg.AuthDisabled():
		log.Warn("the API needs no key: everybody who reaches it controls this host's machines", "because", "DISABLE_AUTH=true")
	case !d.keys.HasUsable():
		log.Info("the API is on the loopback only, since there is no key yet: make one with \"hyperfleet key create\"")
	default:
		log.Info("the API is open to callers with a key")
	}
}

// publish moves the port from the loopback to where the operator wants it, now
// that there is a key. It is called by whoever has made one.
func (d *Daemon) publish() {
	if d.port == nil || d.cfg.AuthDisabled() {
		return // an engine without a port, or one that was open all the time
	}
	before := d.port.Addr().String()
	if err := d.port.move(context.Background(), d.cfg.Address()); err != nil {
		d.log.Error("the API stays on the loopback: its port cannot be opened", "address", d.cfg.Address(), "err", err)
		return
	}
	if d.port.Addr().String() != before {
		d.tellAddress()
	}
}

// listenUnix opens a socket for our own user and the configured group, whose
// permissions are the key: nobody is asked for another. We hold
// the folder's lock: a socket that is there already is a dead daemon's.
func (d *Daemon) listenUnix(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a dead daemon's socket: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	d.add(server{listener: l, handler: d.api.TrustedHandler()})
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
