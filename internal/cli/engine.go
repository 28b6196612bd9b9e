package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hyperfleet/hyperfleet"
)

// withEngine calls f with a client of the daemon or, where the local socket has
// no daemon behind it, of an engine in this process. It is for what needs no
// machine to go on running: images, and the records of machines.
func (g *globals) withEngine(ctx context.Context, f func(*hyperfleet.Client) error) (err error) {
	c, missing, err := g.daemon(ctx)
	if err != nil {
		return err
	}
	if missing {
		var end func() error
		if c, end, err = g.embed(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	defer c.CloseIdleConnections()
	return f(c)
}

// withDaemon calls f with a client of the daemon.
func (g *globals) withDaemon(_ context.Context, f func(*hyperfleet.Client) error) error {
	c := g.client()
	defer c.CloseIdleConnections()
	return f(c)
}

// runEngine is withEngine for a run: it sets up a guest kernel where there is
// none, and takes its steps' times. The caller calls end.
func (g *globals) runEngine(ctx context.Context, steps *stopwatch, detach bool) (c *hyperfleet.Client, end func() error, err error) {
	c, missing, err := g.daemon(ctx)
	if err != nil || !missing {
		return c, func() error { c.CloseIdleConnections(); return nil }, err
	}
	if detach {
		return nil, nil, errors.New("--detach needs a daemon: start one with \"hyperfleet serve\"")
	}
	if err := steps.do("kernel", func() error {
		_, err := g.Backend.Setup(ctx, SetupRequest{}, g.printStep)
		return err
	}); err != nil {
		return nil, nil, fmt.Errorf("set up a guest kernel: %w", err)
	}
	var stop func() error
	if err := steps.do("engine start", func() error { c, stop, err = g.embed(ctx); return err }); err != nil {
		return nil, nil, err
	}
	return c, func() error {
		c.CloseIdleConnections()
		return steps.do("engine stop", stop)
	}, nil
}

// daemon returns a client of the daemon, and whether none answers where an
// engine in this process can stand in for it.
func (g *globals) daemon(ctx context.Context) (c *hyperfleet.Client, missing bool, err error) {
	c = g.client()
	_, err = c.Health(ctx)
	if g.server.local() && g.Backend.Embed != nil && errors.Is(err, hyperfleet.ErrNoDaemon) {
		return c, true, nil
	}
	return c, false, err
}

func (g *globals) embed(ctx context.Context) (*hyperfleet.Client, func() error, error) {
	host, end, err := g.Backend.Embed(ctx, io.Discard)
	if err != nil {
		return nil, nil, fmt.Errorf("start the engine in this process: %w", err)
	}
	return &hyperfleet.Client{Host: host}, end, nil
}
