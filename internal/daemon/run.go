package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/kernel"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/systemd"
)

// ServeRequest says where the configuration comes from, beside the environment.
type ServeRequest = struct {
	EnvFile string            // a file of variables; "" means that of HYPERFLEET_ENV_FILE
	Set     map[string]string // variables that win over all others
}

// Run serves the API as it is configured, until ctx ends.
func Run(ctx context.Context, req ServeRequest, log io.Writer) error {
	loaded, err := config.Load(sources(req))
	if err != nil {
		return err
	}
	cfg, logger := loaded.Config, NewLogger(log, loaded.Config)
	for _, warning := range loaded.Warnings {
		logger.Warn("configuration", "warning", warning)
	}
	if set := loaded.ProxySettings(); len(set) > 0 {
		logger.Warn("there is no reverse proxy yet: its variables have no effect", "variables", set)
	}
	d, err := New(ctx, cfg, logger)
	if err != nil {
		return err
	}
	if err := d.Listen(ctx); err != nil {
		return errors.Join(err, d.Close())
	}
	d.log.Info("ready", "socket", cfg.Socket(), "address", d.servers[len(d.servers)-1].listener.Addr().String())
	return d.serveNotifying(ctx)
}

// serveNotifying serves, and tells the service manager that the daemon is
// ready, alive and ending. That nobody hears it ends no daemon.
func (d *Daemon) serveNotifying(ctx context.Context) error {
	manager := systemd.Notifier{Socket: d.cfg.NotifySocket}
	unheard := func(err error) { d.log.Warn("the service manager does not hear us", "err", err) }
	if err := manager.Ready(ctx, "serving "+d.cfg.Socket()); err != nil {
		unheard(err)
	}
	var watchdog sync.WaitGroup
	ctx, end := context.WithCancel(ctx)
	watchdog.Go(func() { manager.Watch(ctx, d.cfg.Watchdog(), d.alive, unheard) })
	stopping := context.AfterFunc(ctx, func() {
		if err := manager.Stopping(context.WithoutCancel(ctx)); err != nil {
			unheard(err)
		}
	})
	err := d.Serve(ctx)
	stopping()
	end()
	watchdog.Wait()
	return err
}

// alive fails when the daemon cannot do the least of its work: to read a record.
func (d *Daemon) alive(ctx context.Context) error {
	if _, _, err := d.manager.List(ctx, machine.Filter{Limit: 1}); err != nil {
		return fmt.Errorf("read the database: %w", err)
	}
	return nil
}

// sources is where a daemon's configuration comes from.
func sources(req ServeRequest) config.Sources {
	return config.Sources{EnvFile: req.EnvFile, Flags: req.Set, Folder: "."}
}

// ConfigReport is a daemon's configuration with where each value comes from.
type ConfigReport = struct {
	Values   []ConfigValue
	Warnings []string
}

// ConfigValue is one variable's value, and whether a flag, the environment, a
// file or the default says so.
type ConfigValue = struct{ Name, Value, From string }

// Configuration is what Run would use. It tells as much as is known also with
// an error, which names every wrong variable.
func Configuration(req ServeRequest) (ConfigReport, error) {
	loaded, err := config.Load(sources(req))
	report := ConfigReport{Warnings: loaded.Warnings, Values: make([]ConfigValue, len(loaded.Values))}
	for i, v := range loaded.Values {
		report.Values[i] = ConfigValue(v)
	}
	return report, err
}

// Embed starts the engine in this process, as the environment configures it,
// with no other listener than a socket of its own. It returns the client's
// Host for it; end stops it and waits. Only warnings are logged.
func Embed(ctx context.Context, log io.Writer) (host string, end func() error, err error) {
	loaded, err := config.Load(config.Sources{})
	if err != nil {
		return "", nil, err
	}
	cfg := loaded.Config
	cfg.LogLevel.Level = max(cfg.LogLevel.Level, slog.LevelWarn)
	cfg.MetricsListen, cfg.NotifySocket = "", "" // those are a daemon's
	d, err := New(ctx, cfg, NewLogger(log, cfg))
	if err != nil {
		return "", nil, err
	}
	socket := filepath.Join(cfg.RunDir, fmt.Sprintf("run-%d.sock", os.Getpid()))
	if err := d.listenUnix(ctx, socket); err != nil {
		return "", nil, errors.Join(err, d.Close())
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group errgroup.Group
	group.Go(func() error { return d.Serve(serving) })
	return "unix://" + socket, func() error { stop(); return group.Wait() }, nil
}

// SetupRequest says which kernel Setup gets; the zero value means the
// distribution's.
type SetupRequest = struct {
	Kernel, Modules string
	Update, DryRun  bool
}

// Setup puts a guest kernel into the state folder, and tells each step. It
// returns the kernel that is installed then, "" for none.
func Setup(ctx context.Context, req SetupRequest, step func(name, state, detail string)) (string, error) {
	cfg, err := config.Load(config.Sources{})
	if err != nil {
		return "", err
	}
	if cfg.Kernel != "" && req == (SetupRequest{}) {
		return cfg.Kernel, nil // the operator's own
	}
	if err := makeDir(cfg.StateDir, 0o700); err != nil {
		return "", err
	}
	k, err := kernel.NewStore(cfg.KernelDir(), cfg.InitPath()).Setup(ctx, kernel.SetupOptions{
		Kernel: req.Kernel, Modules: req.Modules, Update: req.Update, DryRun: req.DryRun,
		Progress: func(s kernel.Step) { step(s.Name, string(s.State), s.Detail) },
	})
	return k.Path, err
}
