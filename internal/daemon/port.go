package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
)

// port is the API's TCP port as a net.Listener that can move to another address
// while it is served. Connections that were accepted stay.
type port struct {
	mu       sync.Mutex // held during a move, which Accept waits for
	address  string
	listener net.Listener
	closed   bool
}

// listenPort opens the port on an address.
func listenPort(ctx context.Context, address string) (*port, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &port{address: address, listener: l}, nil
}

// move closes the port where it is and opens it on another address. When that
// fails it is opened again where it was. Moving to where it is, or after Close,
// does nothing.
func (p *port) move(ctx context.Context, address string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.address == address {
		return nil
	}
	// Both at a time would need SO_REUSEPORT, with which a second daemon could
	// share the port without anybody noticing.
	if err := p.listener.Close(); err != nil {
		return fmt.Errorf("close %s: %w", p.address, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err == nil {
		p.listener, p.address = l, address
		return nil
	}
	back, backErr := new(net.ListenConfig).Listen(ctx, "tcp", p.address)
	if backErr == nil {
		p.listener = back
	}
	return errors.Join(err, backErr)
}

// Accept waits for a connection, wherever the port is.
func (p *port) Accept() (net.Conn, error) {
	for {
		l := p.current()
		conn, err := l.Accept()
		if err == nil || p.current() == l {
			return conn, err
		}
	}
}

func (p *port) current() net.Listener {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listener
}

// Addr is where the port is now.
func (p *port) Addr() net.Addr { return p.current().Addr() }

// Close closes the port for good.
func (p *port) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	return p.listener.Close()
}
