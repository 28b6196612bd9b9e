package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

type machineAction func(context.Context, *hyperfleet.Client, string) (hyperfleet.Machine, error)

// withClient is how a command gets its client: withEngine, or withDaemon for
// what makes no sense once this process has ended.
type withClient func(context.Context, func(*hyperfleet.Client) error) error

func newActionCommand(use, short string, g *globals, with withClient, act machineAction) *cobra.Command {
	return &cobra.Command{
		Use: use + " MACHINE...", Short: short, Args: cobra.MinimumNArgs(1),
		Long:    short + ". A machine is given by its id or its name; when one fails, the others are\nseen to all the same. Prints the ids of those that it was done for.",
		Example: fmt.Sprintf("  hyperfleet %[1]s web\n  hyperfleet %[1]s web db 4fzk1x7q0c2m", use),
		RunE: func(cmd *cobra.Command, args []string) error {
			return with(cmd.Context(), func(c *hyperfleet.Client) error {
				return runAction(cmd.Context(), g, c, act, args)
			})
		},
	}
}

func newStartCommand(g *globals) *cobra.Command {
	return newActionCommand("start", "Start machines", g, g.withDaemon, func(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
		return c.StartMachine(ctx, id)
	})
}

func newStopCommand(g *globals) *cobra.Command {
	return newActionCommand("stop", "Stop machines and keep their disks", g, g.withEngine, func(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
		return c.StopMachine(ctx, id)
	})
}

func newRestartCommand(g *globals) *cobra.Command {
	return newActionCommand("restart", "Stop machines and start them again", g, g.withDaemon, func(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
		return c.RestartMachine(ctx, id)
	})
}

func newPauseCommand(g *globals) *cobra.Command {
	return newActionCommand("pause", "Stop machines' vCPUs and keep their memory", g, g.withDaemon, func(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
		return c.PauseMachine(ctx, id)
	})
}

func newResumeCommand(g *globals) *cobra.Command {
	cmd := newActionCommand("resume", "Let paused machines go on", g, g.withDaemon, func(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
		return c.ResumeMachine(ctx, id)
	})
	cmd.Aliases = []string{"unpause"}
	return cmd
}

// runAction acts on each machine, also after one has failed.
func runAction(ctx context.Context, g *globals, c *hyperfleet.Client, act machineAction, args []string) error {
	var errs []error
	var done []hyperfleet.Machine
	for _, arg := range args {
		m, err := findMachine(ctx, c, arg)
		if err == nil {
			m, err = act(ctx, c, m.ID)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done = append(done, m)
	}
	return errors.Join(append(errs, g.printMachines(done))...)
}

// printMachines prints ids, or all as JSON.
func (g *globals) printMachines(list []hyperfleet.Machine) error {
	if g.output == "json" {
		return g.printJSON(list)
	}
	for _, m := range list {
		fmt.Fprintln(g.Stdout, m.ID)
	}
	return nil
}

func newRmCommand(g *globals) *cobra.Command {
	cmd := newActionCommand("rm", "End machines and remove them with their disks", g, g.withEngine, func(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
		m, err := c.Machine(ctx, id)
		if err != nil {
			return m, err
		}
		return m, c.DeleteMachine(ctx, id)
	})
	cmd.Aliases = []string{"delete"}
	cmd.Flags().BoolP("force", "f", true, "also when they run; always so")
	return cmd
}

// WaitOptions are the options of machine wait.
type WaitOptions struct {
	status  string
	timeout time.Duration
}

// AddFlags adds the options' flags.
func (o *WaitOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.status, "status", "stopped", "the state to wait for")
	f.DurationVar(&o.timeout, "timeout", 0, "give up after this long (default: never)")
}

func newWaitCommand(g *globals) *cobra.Command {
	var o WaitOptions
	cmd := &cobra.Command{
		Use: "wait MACHINE...", Short: "Wait until machines are in a state", Args: cobra.MinimumNArgs(1),
		Long: "Wait until each of the machines is, or has been, in the state, and print it for each.",
		Example: `  hyperfleet wait web
  hyperfleet wait --status running --timeout 1m web db`,
		RunE: func(cmd *cobra.Command, args []string) error { return runWait(cmd.Context(), o, g, args) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

// runWait waits for one machine after the other; the timeout is for all.
func runWait(ctx context.Context, o WaitOptions, g *globals, args []string) error {
	c := g.client()
	defer c.CloseIdleConnections()
	waiting := ctx
	if o.timeout > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	var errs []error
	var reached []hyperfleet.Machine
	for _, arg := range args {
		m, err := findMachine(ctx, c, arg)
		if err == nil {
			m, err = o.wait(waiting, c, m.ID)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		reached = append(reached, m)
		if g.output != "json" {
			fmt.Fprintln(g.Stdout, m.Status)
		}
	}
	if g.output == "json" {
		errs = append(errs, g.printJSON(reached))
	}
	return errors.Join(errs...)
}

// wait asks again each time the server's own limit of 30 s passes.
func (o *WaitOptions) wait(ctx context.Context, c *hyperfleet.Client, id string) (hyperfleet.Machine, error) {
	for {
		m, err := c.WaitMachine(ctx, id, hyperfleet.Status(o.status), 0)
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			return m, fmt.Errorf("machine %s was not %s within %v", id, o.status, o.timeout)
		}
		if !errors.Is(err, hyperfleet.ErrTimeout) {
			return m, err
		}
	}
}
