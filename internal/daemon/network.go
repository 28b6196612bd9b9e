package daemon

import (
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/network"
)

// guardNetwork fences the guests' user-mode network off from the host's own
// services. It returns why machines can have no network, or nil.
func (d *Daemon) guardNetwork() error {
	err := d.guard()
	switch {
	case err == nil:
		return nil
	case d.cfg.OpenNetwork:
		d.log.Warn("guests can reach this host's own services through their network", "err", err, "because", "HYPERFLEET_ALLOW_UNGUARDED_NETWORK=true")
		return nil
	}
	d.log.Warn("machines get no network, since it cannot be guarded", "err", err)
	return errdefs.Wrap(err, errdefs.Unsupported, "NETWORK_UNAVAILABLE",
		"machines have no network here, since this host cannot fence it in: run the daemon with CAP_NET_ADMIN, or set HYPERFLEET_ALLOW_UNGUARDED_NETWORK=true")
}

func (d *Daemon) guard() error {
	if d.cfg.UIDBase == 0 {
		return errdefs.New(errdefs.Unsupported, "NETWORK_UNAVAILABLE", "VMMs without a user of their own cannot be told from others")
	}
	resolvers, err := network.Resolvers(network.ResolvConf)
	if err != nil {
		d.log.Debug("guests resolve no names", "err", err)
	}
	return network.GuardUserMode(network.UserMode{UIDBase: int(d.cfg.UIDBase), Resolvers: resolvers})
}
