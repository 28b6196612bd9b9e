package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newConfigCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", Short: "Look at the daemon's configuration", Annotations: withoutServer,
		Long: "Look at the configuration that a daemon would have which is started here, with this\nenvironment. docs/configuration.md lists the variables.",
	}
	cmd.AddCommand(newConfigShowCommand(g), newConfigCheckCommand(g))
	return cmd
}

func newConfigShowCommand(g *globals) *cobra.Command {
	var o ServeOptions
	cmd := &cobra.Command{
		Use: "show", Short: "Print every variable with where its value comes from", Args: cobra.NoArgs,
		Long:    "Print every variable of the daemon, what it is, and whether a flag, the environment, a file or\nthe default says so. Wrong values are told on standard error, with status 1.",
		Example: "  hyperfleet config show\n  hyperfleet config show --env-file /etc/hyperfleet/env -o json",
		RunE:    func(*cobra.Command, []string) error { return runConfigShow(o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runConfigShow(o ServeOptions, g *globals) error {
	report, err := g.Backend.Configuration(o.request())
	if g.output == "json" {
		return errors.Join(g.printConfigJSON(report), withStatus(err, 1))
	}
	rows := make([][]string, len(report.Values))
	for i, v := range report.Values {
		rows[i] = []string{v.Name, orDash(v.Value), v.From}
	}
	g.warn(report.Warnings)
	return errors.Join(g.printTable([]string{"VARIABLE", "VALUE", "FROM"}, rows), withStatus(err, 1))
}

func (g *globals) printConfigJSON(report ConfigReport) error {
	type value struct {
		Name  string `json:"name"`
		Value string `json:"value"`
		From  string `json:"from"`
	}
	out := struct {
		Variables []value  `json:"variables"`
		Warnings  []string `json:"warnings"`
	}{[]value{}, append([]string{}, report.Warnings...)}
	for _, v := range report.Values {
		out.Variables = append(out.Variables, value(v))
	}
	return g.printJSON(out)
}

func newConfigCheckCommand(g *globals) *cobra.Command {
	var o ServeOptions
	cmd := &cobra.Command{
		Use: "check", Short: "Tell whether the configuration is right", Args: cobra.NoArgs,
		Long:    "Tell of every variable with a wrong value, and of those that do nothing. Status 1 means that a\ndaemon would not start with it; variables that do nothing are no reason for that.",
		Example: "  hyperfleet config check --env-file /etc/hyperfleet/env",
		RunE:    func(*cobra.Command, []string) error { return runConfigCheck(o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runConfigCheck(o ServeOptions, g *globals) error {
	report, err := g.Backend.Configuration(o.request())
	if err != nil {
		g.warn(report.Warnings)
		return withStatus(err, 1)
	}
	if g.output == "json" {
		return g.printConfigJSON(report)
	}
	g.warn(report.Warnings)
	return g.print(nil, "the configuration is right")
}

// warn prints warnings on standard error.
func (g *globals) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(g.Stderr, "hyperfleet: warning: "+strings.TrimSpace(w))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
