package cli

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

// cleanUpTimeout bounds stopping or removing the machine at the end of a run,
// which happens also when the run itself was interrupted.
const cleanUpTimeout = 2 * time.Minute

// RunOptions are the options of run.
type RunOptions struct {
	MachineOptions
	ExecOptions
	entrypoint string
	remove     bool
	detach     bool
	time       bool
}

// AddFlags adds the options' flags.
func (o *RunOptions) AddFlags(f *pflag.FlagSet) {
	o.MachineOptions.AddFlags(f)
	o.ExecOptions.AddFlags(f)
	f.StringVar(&o.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint")
	f.BoolVar(&o.remove, "rm", false, "remove the machine at the end (default: stop it and keep it)")
	f.BoolVarP(&o.detach, "detach", "d", false, "leave the command running in its machine and print the machine's id")
	f.BoolVar(&o.time, "time", false, "print how long each step took, on standard error")
}

func newRunCommand(g *globals) *cobra.Command {
	var o RunOptions
	cmd := &cobra.Command{
		Use: "run [OPTION...] IMAGE [-- COMMAND [ARG...]]", Short: "Run a command in a new machine", Args: cobra.MinimumNArgs(1),
		Long: "Pull an image, start a machine from it, and run its command or the given one: standard input,\noutput, error and signals are passed, and the exit status is the command's own (see hyperfleet\n--help). Where no daemon answers on the local socket, the engine runs in this very process.",
		Example: `  hyperfleet run --rm alpine -- uname -a
  tar c . | hyperfleet run --rm -w /src golang:1.26 -- sh -c 'tar x && go test ./...'
  hyperfleet run -d --name web -p 80 nginx:1.27`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRun(cmd.Context(), o, g, args[0], withoutDashes(args[1:]))
		},
	}
	o.AddFlags(cmd.Flags())
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func runRun(ctx context.Context, o RunOptions, g *globals, image string, argv []string) (err error) {
	steps := &stopwatch{now: time.Now}
	if o.time {
		defer func() { err = errors.Join(err, steps.print(g)) }()
	}
	c, done, err := g.runEngine(ctx, steps, o.detach)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()

	var img hyperfleet.Image
	if err := steps.do("image", func() error {
		img, err = g.pull(ctx, c, image, g.registryAuth(o.username))
		return err
	}); err != nil {
		return err
	}
	command, err := commandLine(o.entrypoint, argv, img.Config)
	if err != nil {
		return err
	}
	req, err := o.MachineOptions.request(g, image)
	if err != nil {
		return err
	}
	var m hyperfleet.Machine
	if err := steps.do("create", func() error { m, err = c.CreateMachine(ctx, req); return err }); err != nil {
		return err
	}
	if o.detach {
		return g.runDetached(ctx, o, c, m, command, steps)
	}
	defer func() { err = errors.Join(err, o.cleanUp(ctx, c, m.ID, steps)) }()
	if err := steps.do("start", func() error { _, err := c.StartMachine(ctx, m.ID); return err }); err != nil {
		return err
	}
	return steps.do("command", func() error {
		return g.execAttached(ctx, c, m.ID, o.ExecOptions.request(command, nil))
	})
}

// commandLine is what Docker makes of an image's configuration and the user's
// words.
func commandLine(entrypoint string, argv []string, cfg hyperfleet.ImageConfig) ([]string, error) {
	var command []string
	switch {
	case entrypoint != "":
		command = append([]string{entrypoint}, argv...)
	case len(argv) > 0:
		command = slices.Concat(cfg.Entrypoint, argv)
	default:
		command = slices.Concat(cfg.Entrypoint, cfg.Cmd)
	}
	if len(command) == 0 {
		return nil, errors.New("the image names no command: give one after --")
	}
	return command, nil
}

// runDetached leaves the machine running, and removes it if it does not get
// that far.
func (g *globals) runDetached(ctx context.Context, o RunOptions, c *hyperfleet.Client, m hyperfleet.Machine, command []string, steps *stopwatch) error {
	err := steps.do("start", func() error { got, err := c.StartMachine(ctx, m.ID); m = got; return err })
	if err == nil {
		detach := make(chan struct{})
		close(detach)
		err = steps.do("command", func() error {
			_, err := c.ExecStream(ctx, m.ID, o.ExecOptions.request(command, nil), hyperfleet.ExecIO{Detach: detach})
			return err
		})
	}
	if err != nil && !errors.Is(err, hyperfleet.ErrDetached) {
		return errors.Join(err, o.cleanUp(ctx, c, m.ID, steps))
	}
	return g.print(m, m.ID)
}

// cleanUp removes the machine, or stops it and keeps it.
func (o *RunOptions) cleanUp(ctx context.Context, c *hyperfleet.Client, id string, steps *stopwatch) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUpTimeout)
	defer cancel()
	if o.remove {
		return steps.do("remove", func() error { return c.DeleteMachine(ctx, id) })
	}
	return steps.do("stop", func() error { _, err := c.StopMachine(ctx, id); return err })
}
