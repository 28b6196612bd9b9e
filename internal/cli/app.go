package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/buildinfo"
)

// Backend is what only the process with the engine in it can do. Package
// daemon has the functions; main joins them.
type Backend struct {
	// Serve runs the daemon until ctx ends.
	Serve func(ctx context.Context, o ServeRequest, log io.Writer) error
	// Configuration is what Serve would use; with an error, which names every
	// wrong variable, it is as much as is known.
	Configuration func(o ServeRequest) (ConfigReport, error)
	// Embed starts the engine in this process, on a private socket, and
	// returns the client's Host for it. end stops it and leaves no machine
	// untended that it would not have left as a daemon.
	Embed func(ctx context.Context, log io.Writer) (host string, end func() error, err error)
	// Doctor tells what this host can do for machines.
	Doctor func(ctx context.Context) ([]DoctorResult, error)
	// ImportReference takes over the machines and keys of a reference's
	// database, while no daemon runs.
	ImportReference func(ctx context.Context, o ImportRequest) (ImportReport, error)
	// Setup gets a guest kernel and tells each step. What it returns says which
	// kernel there is now; "" is none (a dry run).
	Setup func(ctx context.Context, o SetupRequest, step func(name, state, detail string)) (string, error)
}

// ServeRequest says where Backend.Serve finds its configuration, beside the
// environment.
type ServeRequest = struct {
	EnvFile string            // "" means that of HYPERFLEET_ENV_FILE
	Set     map[string]string // variables that win over all others
}

// ConfigReport is a daemon's configuration with where each value comes from.
type ConfigReport = struct {
	Values   []ConfigValue
	Warnings []string
}

// ConfigValue is one variable's value, and whether a flag, the environment, a
// file or the default says so.
type ConfigValue = struct{ Name, Value, From string }

// DoctorResult is what one check of Backend.Doctor found: ok, warn or fail, and
// why, and what to do.
type DoctorResult = struct{ Name, Level, Reason, Fix string }

// ImportRequest names a database of the reference.
type ImportRequest = struct {
	File        string
	SkipInvalid bool // leave out rows for whose sake nothing would be imported
}

// ImportReport tells of every row. Without Done nothing was changed.
type ImportReport = struct {
	Done bool
	Rows []ImportRow
}

// ImportRow tells of one row: Kind is machine or key, Outcome a word for
// people; Notes say what is not carried over, or what is wrong.
type ImportRow = struct {
	Kind, ID, Name, Outcome string
	Notes                   []string
}

// SetupRequest is what Backend.Setup shall do.
type SetupRequest = struct {
	Kernel, Modules string // paths; "" means the distribution's kernel
	Update, DryRun  bool
}

// App is one run of the program: what it reads and writes.
type App struct {
	Backend Backend
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Getenv  func(string) string

	signals *signalRouter
}

// Main runs the command that args name and returns the exit code.
func (a *App) Main(ctx context.Context, args []string) int {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.signals = newSignalRouter(cancel)
	defer a.signals.close()
	g := &globals{App: a}
	root := newRootCommand(g)
	root.SetArgs(args)
	root.SetIn(a.Stdin)
	root.SetOut(a.Stdout)
	root.SetErr(a.Stderr)
	err := root.ExecuteContext(ctx)
	if sig, ok := errors.AsType[signalError](context.Cause(ctx)); ok && err != nil {
		err = sig
	}
	return g.report(err)
}

// NewApp is an App on the process's own streams and environment.
func NewApp(b Backend) *App {
	return &App{Backend: b, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv}
}

// globals are the options that every command has.
type globals struct {
	*App
	host        string
	contextName string
	output      string
	tlsCA       string

	server server // by selectServer
}

const rootHelp = `Hyperfleet turns OCI images into microVMs.

EXIT STATUS
  The command's own, for run and exec. 128+N when signal N ended it, 124 when
  its timeout passed, 127 when it was not found, 126 when it is no program.
  125 for errors of Hyperfleet itself; 130 and 143 when interrupted.

ENVIRONMENT
  HYPERFLEET_HOST               unix:///path, http://host:port or https://host:port
  HYPERFLEET_CONTEXT            a server of "hyperfleet context", with its key
  HYPERFLEET_API_KEY            key for a daemon that asks for one
  HYPERFLEET_TLS_CA             file with the certificate that an https daemon is known by
  HYPERFLEET_REGISTRY_PASSWORD  password beside --username
  HYPERFLEET_RUN_DIR            of serve; its api.sock is where a client looks by default
  HYPERFLEET_STATE_DIR, PORT    of serve; all its variables are in docs/configuration.md
`

func newRootCommand(g *globals) *cobra.Command {
	root := &cobra.Command{
		Use: "hyperfleet", Short: "OCI images as microVMs", Long: rootHelp,
		SilenceUsage: true, SilenceErrors: true, Version: buildinfo.Version(),
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if g.output != "table" && g.output != "json" {
				return fmt.Errorf("output %q: want table or json", g.output)
			}
			if !needsServer(cmd) {
				return nil
			}
			return g.selectServer()
		},
	}
	root.PersistentFlags().StringVar(&g.host, "host", "", "where the daemon is (default $HYPERFLEET_HOST, or "+hyperfleet.DefaultHost+")")
	root.PersistentFlags().StringVar(&g.contextName, "context", "", "which of the servers of \"hyperfleet context\" (default $HYPERFLEET_CONTEXT, or the current one)")
	root.PersistentFlags().StringVar(&g.tlsCA, "tls-ca", "", "file with the certificate that an https daemon is known by (default $HYPERFLEET_TLS_CA, or the system's)")
	root.PersistentFlags().StringVarP(&g.output, "output", "o", "table", "table or json")
	machine := newMachineCommand(g)
	image := newImageCommand(g)
	root.AddCommand(newServeCommand(g), newConfigCommand(g), newSetupCommand(g), newContextCommand(g), newRunCommand(g), machine, image, newKeyCommand(g), newVersionCommand(g), newDoctorCommand(g), newImportReferenceCommand(g), newGenerateCommand(g))
	for _, alias := range []*cobra.Command{
		newPsCommand(g), newCreateCommand(g), newInspectCommand(g), newExecCommand(g), newCpCommand(g), newRmCommand(g), newStartCommand(g),
		newStopCommand(g), newRestartCommand(g), newPauseCommand(g), newResumeCommand(g), newWaitCommand(g), newLogsCommand(g),
		newPullCommand(g), newRmiCommand(g),
	} {
		root.AddCommand(alias)
	}
	addCompletion(root, g)
	return root
}
