package daemon

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
)

// limitedListener accepts connections up to a number, in all and for each
// address, and closes those beyond at once: they would otherwise wait in the
// kernel and take the turns of others. The zero Addr, of unix sockets, and the
// loopback, of proxies on this host, have no number of their own.
type limitedListener struct {
	net.Listener
	all, each int // 0: any number
	log       *slog.Logger

	mu    sync.Mutex
	total int
	addrs map[netip.Addr]int // of those that have any
}

func newLimitedListener(l net.Listener, all, each int, log *slog.Logger) *limitedListener {
	return &limitedListener{Listener: l, all: all, each: each, log: log, addrs: map[netip.Addr]int{}}
}

// Accept returns the next connection within the limits.
func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := addrOf(c)
		if l.take(addr) {
			return &limitedConn{Conn: c, release: sync.OnceFunc(func() { l.give(addr) })}, nil
		}
		l.log.Debug("connection closed: there are too many", "listener", l.Addr().String(), "from", c.RemoteAddr().String())
		c.Close()
	}
}

// addrOf is the other end's address; an IPv6 one stands for its /64, of which
// one host has all.
func addrOf(c net.Conn) netip.Addr {
	tcp, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	if addr.IsLoopback() {
		return netip.Addr{}
	}
	if addr.Is6() {
		return netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return addr
}

func (l *limitedListener) take(addr netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all > 0 && l.total >= l.all || addr.IsValid() && l.each > 0 && l.addrs[addr] >= l.each {
		return false
	}
	l.total++
	if addr.IsValid() {
		l.addrs[addr]++
	}
	return true
}

func (l *limitedListener) give(addr netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if !addr.IsValid() {
		return
	}
	if l.addrs[addr]--; l.addrs[addr] == 0 {
		delete(l.addrs, addr)
	}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	release func()
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// CloseWrite ends our half: streamed execs need that.
func (c *limitedConn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return net.ErrClosed
	}
	return half.CloseWrite()
}
