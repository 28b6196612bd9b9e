package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
)

// ServeOptions are the options of serve: where its configuration is, and the
// variables that flags set.
type ServeOptions struct {
	envFile string
	flags   *pflag.FlagSet
}

// serveFlags are the variables that are flags too; a toggle takes no value.
var serveFlags = []struct {
	flag, variable, usage string
	toggle                bool
}{
	{"port", "PORT", "TCP port of the API", false},
	{"state-dir", "HYPERFLEET_STATE_DIR", "folder of the database, images and disks", false},
	{"run-dir", "HYPERFLEET_RUN_DIR", "folder of the sockets", false},
	{"log-level", "HYPERFLEET_LOG_LEVEL", "debug, info, warn or error", false},
	{"tls-cert", "HYPERFLEET_TLS_CERT", "PEM certificate of the TCP listener, read again when it changes", false},
	{"tls-key", "HYPERFLEET_TLS_KEY", "key of --tls-cert", false},
	{"tls-self-signed", "HYPERFLEET_TLS_SELF_SIGNED", "make a certificate in the state folder", true},
}

// AddFlags adds the options' flags.
func (o *ServeOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.envFile, "env-file", "", "read variables from this file, which the environment's own win over (default $HYPERFLEET_ENV_FILE)")
	for _, s := range serveFlags {
		usage := s.usage + " (default $" + s.variable + ")"
		if s.toggle {
			f.Bool(s.flag, false, usage)
		} else {
			f.String(s.flag, "", usage)
		}
	}
	o.flags = f
}

func (o *ServeOptions) request() ServeRequest {
	req := ServeRequest{EnvFile: o.envFile, Set: map[string]string{}}
	for _, s := range serveFlags {
		if f := o.flags.Lookup(s.flag); f.Changed {
			req.Set[s.variable] = f.Value.String()
		}
	}
	return req
}

const serveHelp = `Run the daemon with the REST API until it gets SIGINT or SIGTERM. Machines go on running
without it, and the next daemon takes them over. It is configured by variables, which are in
docs/configuration.md: flags win over the environment, the environment wins over --env-file.

EXIT STATUS
  0 when a signal ended it, 1 when it could not start or go on.`

func newServeCommand(g *globals) *cobra.Command {
	var o ServeOptions
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the daemon", Args: cobra.NoArgs, Long: serveHelp, Annotations: withoutServer,
		Example: "  hyperfleet serve --port 8080\n  hyperfleet serve --env-file /etc/hyperfleet/env",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runServe(ctx context.Context, o ServeOptions, g *globals) error {
	err := g.Backend.Serve(ctx, o.request(), g.Stderr)
	if sig, ok := errors.AsType[signalError](context.Cause(ctx)); ok && (err == nil || errors.Is(err, ctx.Err())) && sig.name != "SIGQUIT" {
		return nil // that is how a daemon is meant to end
	}
	return withStatus(err, 1)
}

func newVersionCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the versions of this program and of the daemon", Args: cobra.NoArgs,
		Example: "  hyperfleet version -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runVersion(cmd.Context(), g) },
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
