package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
)

func newServeCommand(g *globals) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the daemon", Args: cobra.NoArgs,
		Long: "Run the daemon with the REST API until it gets SIGINT or SIGTERM. Machines go on running\nwithout it, and the next daemon takes them over. It is configured by the\nenvironment: docs/configuration.md lists the variables. Flags go before variables.",
		RunE: func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), g, o) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

type serveOptions struct {
	TLSCert, TLSKey string
	TLSSelfSigned   bool
}

// AddFlags adds the command's own flags.
func (o *serveOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.TLSCert, "tls-cert", "", "PEM certificate of the TCP listener, read again when it changes (HYPERFLEET_TLS_CERT)")
	f.StringVar(&o.TLSKey, "tls-key", "", "key of --tls-cert (HYPERFLEET_TLS_KEY)")
	f.BoolVar(&o.TLSSelfSigned, "tls-self-signed", false, "make a certificate in the state folder (HYPERFLEET_TLS_SELF_SIGNED)")
}

// settings are the flags that were given, by variable.
func (o *serveOptions) settings() map[string]string {
	set := map[string]string{}
	if o.TLSCert != "" {
		set["HYPERFLEET_TLS_CERT"] = o.TLSCert
	}
	if o.TLSKey != "" {
		set["HYPERFLEET_TLS_KEY"] = o.TLSKey
	}
	if o.TLSSelfSigned {
		set["HYPERFLEET_TLS_SELF_SIGNED"] = "true"
	}
	return set
}

func runServe(ctx context.Context, g *globals, o serveOptions) error {
	err := g.Backend.Serve(ctx, g.Stderr, o.settings())
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
