package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

func newMachineCommand(g *globals) *cobra.Command {
	cmd := &cobra.Command{
		Use: "machine", Aliases: []string{"machines", "m"}, Short: "Work with machines",
		Example: "  hyperfleet machine ls\n  hyperfleet machine create --name web alpine",
	}
	cmd.AddCommand(
		newMachineListCommand(g), newInspectCommand(g), newCreateCommand(g), newStartCommand(g), newStopCommand(g),
		newRestartCommand(g), newRmCommand(g), newWaitCommand(g), newPauseCommand(g), newResumeCommand(g), newExecCommand(g), newCpCommand(g), newLogsCommand(g),
	)
	return cmd
}

// findMachine resolves what a user calls a machine: its id or its name.
func findMachine(ctx context.Context, c *hyperfleet.Client, arg string) (hyperfleet.Machine, error) {
	m, err := c.Machine(ctx, arg)
	if !errors.Is(err, hyperfleet.ErrNotFound) {
		return m, err
	}
	list, lerr := c.ListMachines(ctx, hyperfleet.ListOptions{})
	if lerr != nil {
		return m, lerr
	}
	var named []hyperfleet.Machine
	for _, m := range list {
		if m.Name == arg {
			named = append(named, m)
		}
	}
	switch len(named) {
	case 0:
		return m, fmt.Errorf("machine %q: %w", arg, err)
	case 1:
		return named[0], nil
	}
	return m, fmt.Errorf("%d machines are named %q: give an id", len(named), arg)
}

// ListOptions are the options of machine ls and ps.
type ListOptions struct {
	all    bool
	quiet  bool
	status string
}

// AddFlags adds the options' flags.
func (o *ListOptions) AddFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.quiet, "quiet", "q", false, "print ids only")
	f.StringVar(&o.status, "status", "", "only machines in this state")
}

func newMachineListCommand(g *globals) *cobra.Command {
	o := ListOptions{all: true}
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"}, Short: "List machines", Args: cobra.NoArgs,
		Example: `  hyperfleet machine ls
  hyperfleet machine ls --status failed
  hyperfleet machine ls -o json | jq '.[].name'`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runList(cmd.Context(), o, g) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func newPsCommand(g *globals) *cobra.Command {
	var o ListOptions
	cmd := &cobra.Command{
		Use: "ps", Short: "List running machines", Args: cobra.NoArgs,
		Example: `  hyperfleet ps
  hyperfleet ps -a
  hyperfleet rm $(hyperfleet ps -a -q)`,
		RunE: func(cmd *cobra.Command, _ []string) error { return runList(cmd.Context(), o, g) },
	}
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "also machines that do not run")
	o.AddFlags(cmd.Flags())
	return cmd
}

func runList(ctx context.Context, o ListOptions, g *globals) error {
	status := hyperfleet.Status(o.status)
	if status == "" && !o.all {
		status = hyperfleet.StatusRunning
	}
	var list []hyperfleet.Machine
	err := g.withEngine(ctx, func(c *hyperfleet.Client) (err error) {
		list, err = c.ListMachines(ctx, hyperfleet.ListOptions{Status: status})
		return err
	})
	if err != nil {
		return err
	}
	if o.quiet {
		for _, m := range list {
			fmt.Fprintln(g.Stdout, m.ID)
		}
		return nil
	}
	if g.output == "json" {
		return g.printJSON(list)
	}
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.ID, m.Name, imageOf(m), string(m.Status), ago(m.CreatedAt, time.Now()), portsOf(m)}
	}
	return g.printTable([]string{"ID", "NAME", "IMAGE", "STATUS", "CREATED", "PORTS"}, rows)
}

func imageOf(m hyperfleet.Machine) string {
	if m.ImageRef == nil {
		return "-"
	}
	return *m.ImageRef
}

// portsOf shows exposed ports, and where on the host's loopback they are.
func portsOf(m hyperfleet.Machine) string {
	host := map[int]int{}
	for _, f := range m.PortForwards {
		host[f.GuestPort] = f.HostPort
	}
	ports := make([]string, len(m.ExposedPorts))
	for i, p := range m.ExposedPorts {
		ports[i] = strconv.Itoa(p)
		if host[p] != 0 {
			ports[i] = fmt.Sprintf("127.0.0.1:%d->%d", host[p], p)
		}
	}
	return strings.Join(ports, ", ")
}

func newInspectCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "inspect MACHINE...", Short: "Print machines as JSON", Args: cobra.MinimumNArgs(1),
		Example: "  hyperfleet inspect web\n  hyperfleet inspect web db | jq '.[].status'",
		RunE:    func(cmd *cobra.Command, args []string) error { return runInspect(cmd.Context(), g, args) },
	}
}

func runInspect(ctx context.Context, g *globals, args []string) error {
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		var errs []error
		list := []hyperfleet.Machine{}
		for _, arg := range args {
			m, err := findMachine(ctx, c, arg)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			list = append(list, m)
		}
		return errors.Join(append(errs, g.printJSON(list))...)
	})
}
