//go:build host

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

const (
	base = 900000
	user = base + 7
)

// remote are addresses of another host, in another namespace, and local those
// of this one. Each answers on TCP and UDP ports 53 and 80.
var (
	remote = []string{
		"203.0.113.5", "10.1.2.3", "100.64.0.5", "169.254.169.254", "172.16.0.5", "192.168.7.7", "198.18.0.5",
		"2001:db8::5", "fd00::5",
	}
	local = []string{"203.0.113.1", "10.1.2.1", "2001:db8::1"}
)

// TestGuardUserMode measures with real sockets what a VMM's user, and a user
// that is no VMM's, can reach.
func TestGuardUserMode(t *testing.T) {
	inNamespaces(t, func() {
		resolver := netip.MustParseAddr("10.1.2.3")
		loopbackResolver := netip.MustParseAddr("127.0.0.53")
		all := append([]string{"127.0.0.1", "127.0.0.53", "::1"}, local...)
		all = append(all, remote...)
		open := map[string]bool{
			"203.0.113.5": true, "2001:db8::5": true,
			"10.1.2.3/53": true, "127.0.0.53/53": true,
		}
		// Without the guard everything can be reached: the cells measure it.
		for _, addr := range all {
			requireCell(t, user, addr, 80, true)
		}
		u := UserMode{UIDBase: base, Resolvers: []netip.Addr{resolver, loopbackResolver}}
		for range 2 { // it is idempotent
			must(t, GuardUserMode(u))
		}
		for _, addr := range all {
			for _, port := range []int{53, 80} {
				requireCell(t, user, addr, port, open[addr] || open[fmt.Sprintf("%s/%d", addr, port)])
				requireCell(t, base-1, addr, port, true)
			}
		}
		for _, edge := range []int{base, base + slots - 1} {
			requireCell(t, edge, "127.0.0.1", 80, false)
		}
		requireCell(t, base+slots, "127.0.0.1", 80, true)
		requireForward(t)
		// Another daemon's guard comes and goes beside it.
		other := base + 2*slots
		must(t, GuardUserMode(UserMode{UIDBase: other}))
		requireCell(t, other, "127.0.0.1", 80, false)
		must(t, UnguardUserMode(other))
		requireCell(t, user, "127.0.0.1", 80, false)
		requireCell(t, other, "127.0.0.1", 80, true)
		for range 2 {
			must(t, UnguardUserMode(base))
		}
		requireCell(t, user, "127.0.0.1", 80, true)
		tables, err := (&nftables.Conn{}).ListTables()
		must(t, err)
		if len(tables) != 0 {
			t.Errorf("tables are left: %v", tables)
		}
	})
}

// TestGuardUserModeRefusesAtOnce: a guest learns that it may not, and does not
// wait.
func TestGuardUserModeRefusesAtOnce(t *testing.T) {
	inNamespaces(t, func() {
		must(t, GuardUserMode(UserMode{UIDBase: base}))
		as(t, user, func() {
			start := time.Now()
			conn, err := net.DialTimeout("tcp", "10.1.2.3:80", 10*time.Second)
			if err == nil {
				conn.Close()
			}
			if !errors.Is(err, unix.ECONNREFUSED) || time.Since(start) > time.Second {
				t.Errorf("connect gives %v after %v", err, time.Since(start))
			}
		})
	})
}

func TestGuardUserModeNeedsCapability(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends without its capabilities
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			done <- err
			return
		}
		done <- GuardUserMode(UserMode{UIDBase: base})
	}()
	if err := <-done; errdefs.CodeOf(err) != "NET_ADMIN_MISSING" {
		t.Errorf("error is %v", err)
	}
}

// requireForward makes sure that a VMM's user can serve a connection that the
// host opens, as QEMU does for a forwarded port.
func requireForward(t *testing.T) {
	t.Helper()
	var ln net.Listener
	var err error
	as(t, user, func() { ln, err = net.Listen("tcp", "127.0.0.1:0") })
	must(t, err)
	defer ln.Close()
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			conn.Write([]byte("served"))
			conn.Close()
		}
	}()
	conn, err := net.DialTimeout("tcp", ln.Addr().String(), 10*time.Second)
	must(t, err)
	defer conn.Close()
	got := make([]byte, 6)
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Read(got); err != nil || string(got) != "served" {
		t.Errorf("a forwarded connection gives %q: %v", got, err)
	}
}

// requireCell makes sure that uid can, or cannot, reach addr by TCP and UDP.
func requireCell(t *testing.T, uid int, addr string, port int, open bool) {
	t.Helper()
	target := net.JoinHostPort(addr, strconv.Itoa(port))
	for _, network := range []string{"tcp", "udp"} {
		var err error
		as(t, uid, func() { err = exchange(network, target) })
		if (err == nil) != open {
			t.Errorf("user %d to %s %s: %v, want open: %v", uid, network, target, err, open)
		}
	}
}

// exchange sends some bytes and waits for them to come back.
func exchange(network, target string) error {
	conn, err := net.DialTimeout(network, target, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 5))
	return err
}

// as runs f with the thread's file system user set, which is what a socket's
// user is taken from.
func as(t *testing.T, uid int, f func()) {
	t.Helper()
	must(t, setfsuid(uid))
	defer func() { must(t, setfsuid(0)) }()
	f()
}

func setfsuid(uid int) error {
	// It returns the user before, also when it did nothing: setfsuid(2).
	unix.SetfsuidRetUid(uid)
	if now, _ := unix.SetfsuidRetUid(-1); now != uid {
		return fmt.Errorf("file system user is %d, want %d", now, uid)
	}
	return nil
}

// inNamespaces runs f on a thread in a network namespace of its own, with a
// link to a second one. Both end with their threads.
func inNamespaces(t *testing.T, f func()) {
	t.Helper()
	thread(func() {
		must(t, unix.Unshare(unix.CLONE_NEWNET))
		ready, end := make(chan int), make(chan struct{})
		defer close(end)
		go thread(func() { otherHost(t, ready, end) })
		tid := <-ready
		ip(t, "link add host0 type veth peer name other0 netns "+strconv.Itoa(tid))
		ip(t, "link set lo up")
		ip(t, "link set host0 up")
		for _, a := range local {
			ip(t, "addr add dev host0 "+withMask(a))
		}
		ready <- 0
		if <-ready != 1 {
			return
		}
		ip(t, "route add default dev host0")
		ip(t, "-6 route add default dev host0")
		serve(t, append([]string{"127.0.0.1", "127.0.0.53", "::1"}, local...))
		f()
	})
}

// otherHost answers at the remote addresses until end.
func otherHost(t *testing.T, ready chan int, end chan struct{}) {
	defer close(ready)
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	ready <- unix.Gettid()
	<-ready // the link is there
	ip(t, "link set lo up")
	ip(t, "link set other0 up")
	for _, a := range remote {
		ip(t, "addr add dev other0 "+withMask(a))
	}
	ip(t, "route add default dev other0")
	ip(t, "-6 route add default dev other0")
	serve(t, remote)
	ready <- 1
	<-end
}

func withMask(addr string) string {
	if strings.Contains(addr, ":") {
		return addr + "/128 nodad"
	}
	return addr + "/32"
}

// serve echoes on ports 53 and 80 of each address.
func serve(t *testing.T, addrs []string) {
	t.Helper()
	for _, a := range addrs {
		for _, port := range []string{"53", "80"} {
			ln, err := net.Listen("tcp", net.JoinHostPort(a, port))
			must(t, err)
			t.Cleanup(func() { ln.Close() })
			go func() {
				for {
					conn, err := ln.Accept()
					if err != nil {
						return
					}
					conn.Write([]byte("hello"))
					conn.Close()
				}
			}()
			pc, err := net.ListenPacket("udp", net.JoinHostPort(a, port))
			must(t, err)
			t.Cleanup(func() { pc.Close() })
			go func() {
				buf := make([]byte, 64)
				for {
					n, from, err := pc.ReadFrom(buf)
					if err != nil {
						return
					}
					pc.WriteTo(buf[:n], from)
				}
			}()
		}
	}
}

// thread runs f on a thread of its own, which ends with it, and waits.
func thread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked
		f()
	}()
	<-done
}

func ip(t *testing.T, args string) {
	t.Helper()
	out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
	if err != nil {
		t.Errorf("ip %s: %v: %s", args, err, out)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
		runtime.Goexit()
	}
}
