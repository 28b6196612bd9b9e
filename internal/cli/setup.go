package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// SetupOptions are the options of setup.
type SetupOptions struct {
	kernel  string
	modules string
	update  bool
	dryRun  bool
}

// AddFlags adds the options' flags.
func (o *SetupOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.kernel, "kernel", "", "use this vmlinuz or vmlinux instead of the distribution's kernel package")
	f.StringVar(&o.modules, "modules", "", "its /lib/modules/RELEASE folder (default: its drivers are built in)")
	f.BoolVar(&o.update, "update", false, "look for a newer kernel although one is installed")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "only tell what would be done")
}

func newSetupCommand(g *globals) *cobra.Command {
	var o SetupOptions
	cmd := &cobra.Command{
		Use: "setup", Short: "Get a kernel for guests", Args: cobra.NoArgs, Annotations: withoutServer,
		Long:    "Get a kernel for guests: the distribution's cloud kernel package, downloaded by apt and\nunpacked without being installed, or the file that --kernel names. Without anything to do it does nothing.",
		Example: "  hyperfleet setup\n  hyperfleet setup --dry-run --update\n  hyperfleet setup --kernel ./vmlinux",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runSetup(cmd.Context(), o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runSetup(ctx context.Context, o SetupOptions, g *globals) error {
	kernel, err := g.Backend.Setup(ctx, SetupRequest{Kernel: o.kernel, Modules: o.modules, Update: o.update, DryRun: o.dryRun}, g.printStep)
	if err != nil {
		return err
	}
	line := "kernel: " + kernel
	if kernel == "" {
		line = "kernel: none installed"
	}
	return g.print(map[string]string{"kernel": kernel}, line)
}

// printStep tells of a step of a setup, on standard error.
func (g *globals) printStep(name, state, detail string) {
	if detail != "" {
		detail = ": " + detail
	}
	if state == "doing" {
		state = "..."
	}
	fmt.Fprintf(g.Stderr, "%s %s%s\n", name, state, detail)
}
