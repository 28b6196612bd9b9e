package machine

import (
	"context"
	"errors"
	"net"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// ports hands out free ports of the host's loopback. The VMM binds a port some
// milliseconds after it was found free; until the machine is down no other
// machine gets the same one.
type ports struct {
	mu    sync.Mutex
	taken map[uint16]ID
}

// reserve finds one port for each of the guest's.
func (p *ports) reserve(ctx context.Context, id ID, guest []uint16) (fwd []PortForward, err error) {
	var held []net.Listener // until all are found, so that none is found twice
	defer func() {
		for _, l := range held {
			err = errors.Join(err, l.Close())
		}
		if err != nil {
			p.release(id)
			fwd = nil
		}
	}()
	for len(fwd) < len(guest) {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
		if err != nil {
			return nil, errdefs.Wrap(err, errdefs.Exhausted, "NO_FREE_PORT", "no free port on the host's loopback")
		}
		held = append(held, l)
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok || !p.claim(id, uint16(addr.Port)) {
			continue
		}
		fwd = append(fwd, PortForward{GuestPort: guest[len(fwd)], HostPort: uint16(addr.Port)})
	}
	return fwd, nil
}

// claim takes one port for a machine, unless another has it.
func (p *ports) claim(id ID, port uint16) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if owner, ok := p.taken[port]; ok && owner != id {
		return false
	}
	if p.taken == nil {
		p.taken = make(map[uint16]ID)
	}
	p.taken[port] = id
	return true
}

// release gives back all ports of a machine.
func (p *ports) release(id ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for port, owner := range p.taken {
		if owner == id {
			delete(p.taken, port)
		}
	}
}
