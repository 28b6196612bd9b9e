//go:build vm

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/kernel/kerneltest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// Addresses of TestUserModeNetwork: the public ones are RFC 5737's TEST-NET-2.
const (
	hostAddress     = "198.51.100.1"
	publicAddress   = "198.51.100.2"
	resolverAddress = "10.99.0.2" // private, but the host's name server
)

// TestUserModeNetwork is about a daemon in namespaces of its own, with one other
// host beside it.
func TestUserModeNetwork(t *testing.T) {
	kerneltest.Boot(t) // while there is a network to get it from
	enterNamespaces(t)
	h, image := hosttest.NewWithImage(t, "HYPERFLEET_UID_BASE=1100000")
	// No subtests: each would have a thread of its own, out of the namespaces.
	guardedNetwork(t, h, image)
	h.StopDaemon()
	h.Bin = withoutNetAdmin(t, h.Bin)
	h.Env = append(h.Env, "HYPERFLEET_UID_BASE=1200000") // no table has its users
	h.StartDaemon()
	noNetwork(t, h, image)
	h.StopDaemon()
	h.Env = append(h.Env, "HYPERFLEET_ALLOW_UNGUARDED_NETWORK=true")
	h.StartDaemon()
	m := h.Start("unguarded", image, withNetwork)
	if res := h.Result(m, "nc", "-w", "5", "10.0.2.2", listen(t, "127.0.0.1")); res.Stdout != "hello\n" {
		t.Errorf("what the operator opened is closed: %+v", res)
	}
}

func withNetwork(r *hyperfleet.CreateMachineRequest) {
	r.Network = &hyperfleet.NetworkRequest{Enable: true}
	r.ExposedPorts = []int{8080}
}

func guardedNetwork(t *testing.T, h *hosttest.Host, image string) {
	m := h.Start("guarded", image, withNetwork)
	if len(m.PortForwards) != 1 || m.PortForwards[0].GuestPort != 8080 {
		t.Fatalf("port forwards: %+v", m.PortForwards)
	}
	h.Output(m, "sh", "-c", "echo served >/root/index.html; httpd -p 8080 -h /root")
	for _, c := range []struct {
		address string
		want    bool
	}{{"127.0.0.1", true}, {hostAddress, false}} { // the loopback only
		got, err := get(net.JoinHostPort(c.address, strconv.Itoa(m.PortForwards[0].HostPort)))
		if served := strings.HasSuffix(got, "served\n"); served != c.want {
			t.Errorf("the exposed port through %s: %q, %v", c.address, got, err)
		}
	}
	for _, c := range []struct {
		what, address, port string
		open                bool
	}{
		{"the daemon's API", "10.0.2.2", envOf(h, "PORT"), false},
		{"a service on the host's loopback", "10.0.2.2", listen(t, "127.0.0.1"), false},
		{"a service of the host", hostAddress, listen(t, hostAddress), false},
		{"its own forwarded port", "10.0.2.2", strconv.Itoa(m.PortForwards[0].HostPort), false},
		{"a private network", resolverAddress, "80", false},
		{"the world", publicAddress, "80", true},
	} {
		res := h.Result(m, "nc", "-w", "5", c.address, c.port)
		if open := res.ExitCode == 0 && res.Stdout == "hello\n"; open != c.open {
			t.Errorf("%s (%s:%s): reached %v, want %v: %+v", c.what, c.address, c.port, open, c.open, res)
		}
	}
	if res := h.Result(m, "nslookup", "name.test"); !strings.Contains(res.Stdout, publicAddress) {
		t.Errorf("names do not resolve: %+v", res)
	}
}

// Without the guard a machine has no network; one that asks for it is refused.
func noNetwork(t *testing.T, h *hosttest.Host, image string) {
	_, err := h.CreateMachine(t.Context(), hyperfleet.CreateMachineRequest{
		Name: "refused", VCPUCount: 1, MemSizeMiB: 128, Image: image, Network: &hyperfleet.NetworkRequest{Enable: true},
	})
	failure{hyperfleet.ErrUnsupported, "NETWORK_UNAVAILABLE", "CAP_NET_ADMIN"}.check(t, err)
	m := h.Start("cut-off", image)
	if m.Network != nil && m.Network.Enable {
		t.Errorf("network: %+v", m.Network)
	}
	if got := h.Output(m, "ls", "/sys/class/net"); got != "lo\n" {
		t.Errorf("interfaces: %q, want the loopback only", got)
	}
}

// enterNamespaces gives the test's thread, and what it starts, a network and a
// mount namespace of its own with a link to another host. They end with the
// test, since its thread is not given back.
func enterNamespaces(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := errors.Join(
		unix.Unshare(unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_FS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
	); err != nil {
		t.Fatal(err)
	}
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver "+resolverAddress+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(resolv, target, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("replace resolv.conf: %v", err)
	}
	for _, args := range []string{"link set lo up", "link add host0 type veth peer name other0", "link set host0 up", "addr add dev host0 " + hostAddress + "/24", "route add default via " + publicAddress} {
		if strings.HasPrefix(args, "link set host0") {
			otherHost(t)
		}
		imagetest.Run(t, "ip", strings.Fields(args)...)
	}
}

// otherHost is a network namespace at the other end of the link.
func otherHost(t *testing.T) {
	t.Helper()
	tids, linked := make(chan int), make(chan struct{})
	up, end, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // not given back: the namespace ends with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("other host: %v", err)
		}
		tids <- unix.Gettid()
		<-linked
		for _, args := range []string{"link set lo up", "link set other0 up", "addr add dev other0 " + publicAddress + "/24", "addr add dev other0 " + resolverAddress + "/24"} {
			imagetest.Run(t, "ip", strings.Fields(args)...)
		}
		listenAt(t, net.JoinHostPort(publicAddress, "80"))
		listenAt(t, net.JoinHostPort(resolverAddress, "80"))
		up <- serveNames(t)
		<-end
	}()
	t.Cleanup(func() {
		close(end)
		<-ended
	})
	imagetest.Run(t, "ip", "link", "set", "other0", "netns", strconv.Itoa(<-tids))
	close(linked)
	if err := <-up; err != nil {
		t.Fatal(err)
	}
}

// serveNames answers every question for an address with publicAddress (RFC 1035 4.1).
func serveNames(t *testing.T) error {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(resolverAddress), Port: 53})
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		conn.Close()
		<-ended
	})
	go func() {
		defer close(ended)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n >= 17 {
				_, _ = conn.WriteToUDPAddrPort(nameAnswer(buf[:n]), from)
			}
		}
	}()
	return nil
}

func nameAnswer(query []byte) []byte {
	answer := append([]byte{}, query...)
	answer[2], answer[3] = 0x81, 0x80 // a response; recursion desired and available
	if query[len(query)-3] != 1 {     // another type than A: no such record
		return answer
	}
	answer[7] = 1
	answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
	return append(answer, net.ParseIP(publicAddress).To4()...)
}

// listen says hello to whoever connects to a port of the address, which it returns.
func listen(t *testing.T, address string) (port string) {
	t.Helper()
	_, port, err := net.SplitHostPort(listenAt(t, net.JoinHostPort(address, "0")))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func listenAt(t *testing.T, address string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", address)
	if err != nil {
		t.Errorf("listen: %v", err)
		return address
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "hello")
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-ended
	})
	return l.Addr().String()
}

// get asks for / on the calling thread, whose namespace counts.
func get(address string) (string, error) {
	conn, err := net.DialTimeout("tcp4", address, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

// withoutNetAdmin makes a folder of binaries that run without the capability.
func withoutNetAdmin(t *testing.T, bin string) string {
	t.Helper()
	dir := t.TempDir()
	script := "#!/bin/sh\nexec setpriv --bounding-set -net_admin " + filepath.Join(bin, "hyperfleet") + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(dir, "hyperfleet"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func envOf(h *hosttest.Host, name string) string {
	for _, kv := range h.Env {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}
