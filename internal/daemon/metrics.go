package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/guest"
	"github.com/hyperfleet/hyperfleet/internal/image"
	"github.com/hyperfleet/hyperfleet/internal/metrics"
	"github.com/hyperfleet/hyperfleet/internal/store"
)

// registerSources lets the metrics ask the parts at each scrape.
func (d *Daemon) registerSources(db *store.Store, images *image.Store, guests *guest.Sessions) error {
	return d.metrics.Register(metrics.Sources{
		Machines:   db.CountMachines,
		Images:     func() metrics.ImageCache { return metrics.ImageCache(images.Stats()) },
		Sessions:   func() metrics.Sessions { return metrics.Sessions(guests.Stats()) },
		Execs:      d.api.Execs,
		StoreBytes: func() (int64, error) { return databaseBytes(d.cfg.Database) },
	})
}

// databaseBytes is the size of the database with its write-ahead log.
func databaseBytes(path string) (total int64, err error) {
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if errors.Is(err, fs.ErrNotExist) && suffix != "" {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("measure the database: %w", err)
		}
		total += info.Size()
	}
	return total, nil
}

// listenMetrics opens the listener of the metrics, if there is to be one.
func (d *Daemon) listenMetrics(ctx context.Context) error {
	if d.cfg.MetricsListen == "" {
		return nil
	}
	network, address := config.SplitListen(d.cfg.MetricsListen)
	if network == "unix" {
		if err := removeSocket(address); err != nil {
			return err
		}
	}
	l, err := new(net.ListenConfig).Listen(ctx, network, address)
	if err != nil {
		return fmt.Errorf("listen for metrics (HYPERFLEET_METRICS_LISTEN): %w", err)
	}
	d.add(server{listener: l, handler: d.metrics.Handler(d.log)})
	d.log.Info("metrics are served", "address", l.Addr().String())
	if network == "unix" {
		return protectSocket(address, d.cfg.SocketGroup)
	}
	return nil
}

// removeSocket removes a dead daemon's socket, and nothing that is none.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("listen on %s: there is a file that is no socket", path)
	}
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("remove a dead daemon's socket: %w", err)
	}
	return nil
}
