package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
)

func newServeCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Run the daemon", Args: cobra.NoArgs,
		Long: "Run the daemon with the REST API until it gets SIGINT or SIGTERM. Machines go on running\nwithout it, and the next daemon takes them over. It is configured by the\nenvironment: docs/configuration.md lists the variables.",
		RunE: func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), g) },
	}
}

func runServe(ctx context.Context, g *globals) error {
	err := g.Backend.Serve(ctx, g.Stderr)
	if sig, ok := errors.AsType[signalError](context.Cause(ctx)); ok && (err == nil || errors.Is(err, ctx.Err())) && sig.name != "SIGQUIT" {
		return nil // that is how a daemon is meant to end
	}
	return err
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of this program and of the daemon", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVersion(cmd.Context(), g) },
	}
}

func runVersion(ctx context.Context, g *globals) error {
	type versions struct {
		Client string              `json:"client"`
		Daemon *hyperfleet.Version `json:"daemon"`
	}
	out := versions{Client: buildinfo.Version()}
	line := "client " + out.Client
	v, err := g.client().Version(ctx)
	switch {
	case err == nil:
		out.Daemon = &v
		line += "\ndaemon " + v.Version + " (" + v.Runtime + ")"
	case errors.Is(err, hyperfleet.ErrNoDaemon):
		line += "\ndaemon not running"
	default:
		return err
	}
	return g.print(out, line)
}
