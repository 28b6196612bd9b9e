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
		Use: "wait MACHINE", Short: "Wait until a machine is in a state", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runWait(cmd.Context(), o, g, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

// runWait asks again each time the server's own limit of 30 s passes.
func runWait(ctx context.Context, o WaitOptions, g *globals, arg string) error {
	c := g.client()
	m, err := findMachine(ctx, c, arg)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(o.timeout)
	for {
		ask := 30 * time.Second
		if o.timeout > 0 {
			ask = max(time.Second, min(ask, time.Until(deadline)))
		}
		got, err := c.WaitMachine(ctx, m.ID, hyperfleet.Status(o.status), ask)
		if err == nil {
			return g.print(got, string(got.Status))
		}
		if !errors.Is(err, hyperfleet.ErrTimeout) || o.timeout > 0 && time.Until(deadline) <= 0 {
			return err
		}
	}
}
