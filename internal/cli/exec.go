package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

// ExecOptions say how a command runs, for exec and run.
type ExecOptions struct {
	workDir string
	user    string
	timeout time.Duration
}

// AddFlags adds the options' flags.
func (o *ExecOptions) AddFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.workDir, "workdir", "w", "", "working directory in the guest (default: the image's)")
	f.StringVarP(&o.user, "user", "u", "", "name, uid or uid:gid in the guest (default: the image's)")
	f.DurationVar(&o.timeout, "timeout", 0, "kill the command after this long (default: never)")
	f.BoolP("interactive", "i", true, "pass standard input; always so")
}

func (o *ExecOptions) request(argv []string, env map[string]string) hyperfleet.ExecRequest {
	return hyperfleet.ExecRequest{Command: argv, Env: env, WorkDir: o.workDir, User: o.user, Timeout: o.timeout.Seconds()}
}

func newExecCommand(g *globals) *cobra.Command {
	var o ExecOptions
	var env []string
	var detach bool
	cmd := &cobra.Command{
		Use: "exec MACHINE COMMAND [ARG...]", Short: "Run a command in a machine", Args: cobra.MinimumNArgs(2),
		Long: "Run a command in a machine: standard input, output, error and signals are passed, and the\nexit status is the command's own (see hyperfleet --help).",
		Example: `  hyperfleet exec web uname -a
  hyperfleet exec -u www-data -w /srv web -- sh -c 'ls | wc -l'
  hyperfleet exec -e MODE=test --timeout 10s web ./check <input
  hyperfleet exec -d web ./job`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runExec(cmd.Context(), o, env, detach, g, args[0], withoutDashes(args[1:]))
		},
	}
	o.AddFlags(cmd.Flags())
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "environment variable K=V, or K to pass this process's own; may be repeated")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "leave the command running and print its id")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// withoutDashes drops a "--" before the command.
func withoutDashes(argv []string) []string {
	if len(argv) > 1 && argv[0] == "--" {
		return argv[1:]
	}
	return argv
}

func runExec(ctx context.Context, o ExecOptions, env []string, detach bool, g *globals, arg string, argv []string) error {
	vars, err := parseEnv(env, g.Getenv)
	if err != nil {
		return err
	}
	c := g.client()
	m, err := findMachine(ctx, c, arg)
	if err != nil {
		return err
	}
	req := o.request(argv, vars)
	if detach {
		return execDetached(ctx, g, c, m.ID, req)
	}
	if g.output == "json" {
		res, err := c.Exec(ctx, m.ID, req)
		return errors.Join(err, ifOK(err, func() error { return g.printJSON(res) }), resultError(res))
	}
	return g.execAttached(ctx, c, m.ID, req)
}

func ifOK(err error, f func() error) error {
	if err != nil {
		return nil
	}
	return f()
}

// execAttached runs a command on the program's own streams and signals.
func (g *globals) execAttached(ctx context.Context, c *hyperfleet.Client, machine string, req hyperfleet.ExecRequest) error {
	signals, stop := g.signals.forward()
	defer stop()
	res, err := c.ExecStream(ctx, machine, req, hyperfleet.ExecIO{
		Stdin: g.Stdin, Stdout: g.Stdout, Stderr: g.Stderr, Signals: signals,
	})
	if err != nil {
		return err
	}
	return resultError(res)
}

func execDetached(ctx context.Context, g *globals, c *hyperfleet.Client, machine string, req hyperfleet.ExecRequest) error {
	req.ExecID = newExecID()
	detach := make(chan struct{})
	close(detach)
	_, err := c.ExecStream(ctx, machine, req, hyperfleet.ExecIO{Detach: detach})
	if err != nil && !errors.Is(err, hyperfleet.ErrDetached) {
		return err
	}
	return g.print(map[string]string{"exec_id": req.ExecID}, req.ExecID)
}
