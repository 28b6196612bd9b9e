package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyperfleet/hyperfleet"
)

// LogsOptions are the options of machine logs.
type LogsOptions struct {
	follow     bool
	tail       string
	source     string
	timestamps bool
}

// AddFlags adds the options' flags.
func (o *LogsOptions) AddFlags(f *pflag.FlagSet) {
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with what comes, until the machine's VMM has ended")
	f.StringVarP(&o.tail, "tail", "n", "all", "print at most so many lines of what is there")
	f.StringVar(&o.source, "source", "all", "serial, agent or all")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "print when the host got each line")
}

func (o *LogsOptions) request() (hyperfleet.LogOptions, error) {
	out := hyperfleet.LogOptions{Source: hyperfleet.LogSource(o.source), Follow: o.follow}
	if o.tail == "all" {
		return out, nil
	}
	n, err := strconv.Atoi(o.tail)
	if err != nil || n < 0 {
		return out, fmt.Errorf("--tail %q: want a number of lines, or all", o.tail)
	}
	if out.Tail = n; n == 0 {
		out.Tail = -1
	}
	return out, nil
}

func newLogsCommand(g *globals) *cobra.Command {
	var o LogsOptions
	cmd := &cobra.Command{
		Use: "logs MACHINE", Short: "Print a machine's log", Args: cobra.ExactArgs(1),
		Long: "Print a machine's log: its serial console, and what became of the machine and of its agent.\nThe log is there in every state, also after a start that failed; its oldest lines go first.",
		Example: `  hyperfleet logs web
  hyperfleet logs -f --tail 20 web
  hyperfleet logs --source agent -t web`,
		RunE: func(cmd *cobra.Command, args []string) error { return runLogs(cmd.Context(), o, g, args[0]) },
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func runLogs(ctx context.Context, o LogsOptions, g *globals, arg string) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	return g.withEngine(ctx, func(c *hyperfleet.Client) error {
		m, err := findMachine(ctx, c, arg)
		if err != nil {
			return err
		}
		if g.output == "json" || o.timestamps {
			return g.printEntries(c.MachineLogEntries(ctx, m.ID, req))
		}
		log, err := c.MachineLogs(ctx, m.ID, req)
		if err != nil {
			return err
		}
		defer log.Close()
		_, err = io.Copy(g.Stdout, log)
		return err
	})
}

// printEntries prints a log with its times, or as one line of JSON for each
// entry.
func (g *globals) printEntries(entries func(func(hyperfleet.LogEntry, error) bool)) error {
	enc := json.NewEncoder(g.Stdout)
	enc.SetEscapeHTML(false)
	for e, err := range entries {
		if err != nil {
			return err
		}
		if g.output == "json" {
			err = enc.Encode(e)
		} else {
			if e.Lost {
				e.Line = "(lines are missing here: they were not read in time)"
			}
			_, err = fmt.Fprintf(g.Stdout, "%s %-7s %s\n", e.Time.Local().Format(time.RFC3339Nano), e.Source, e.Line)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
