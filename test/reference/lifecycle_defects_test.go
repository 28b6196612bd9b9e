//go:build vm

package reference

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// A machine can be started as often as one likes, also after its VMM's crash.
func TestDefect01MachineStartsAgain(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("again", image)
	w.post("/machines/"+m.ID+"/stop", "").want(200)
	w.post("/machines/"+m.ID+"/start", "").want(200)
	m = w.post("/machines/"+m.ID+"/restart", "").want(200).machine()
	if err := syscall.Kill(*m.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.get("/machines/" + m.ID + "/wait?status=failed&timeout=5").want(200)
	if m = w.post("/machines/"+m.ID+"/start", "").want(200).machine(); m.Status != "running" {
		t.Errorf("after the crash: %+v", m)
	}
}

// What runs when the daemon ends is known to the next one, goes on undisturbed
// when it makes further machines, and is stopped for good by it.
func TestDefect07DaemonRestartKeepsMachines(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("survivor", image)
	h.StopDaemon()
	h.StartDaemon()
	if got := w.get("/machines/" + m.ID).want(200).machine(); got.Status != "running" || *got.PID != *m.PID {
		t.Errorf("after the restart: %+v", got)
	}
	other := w.running("other", image)
	for _, id := range []string{m.ID, other.ID} {
		if got := w.exec(id, "cat", "/sys/class/net/eth0/operstate"); got.ExitCode != 0 {
			t.Errorf("machine %s has lost its network: %+v", id, got)
		}
		w.post("/machines/"+id+"/stop", "").want(200)
	}
	if left := h.VMMs(); len(left) > 0 {
		t.Errorf("stopped, yet running: %v", left)
	}
}

func TestDefect08VMMDeathIsNoticed(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	killed := w.running("killed", image)
	if err := syscall.Kill(*killed.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.get("/machines/" + killed.ID + "/wait?status=failed&timeout=2").want(200)
	if m := w.get("/machines/" + killed.ID).want(200).machine(); m.ErrorMessage == nil || m.PID != nil {
		t.Errorf("failed without a reason: %+v", m)
	}
	off := w.running("off", image)
	// The answer may or may not come before the guest is gone.
	w.post("/machines/"+off.ID+"/exec", `{"command":["sh","-c","kill -INT 1; sleep 20"]}`)
	w.get("/machines/" + off.ID + "/wait?status=stopped&timeout=20").want(200)
}

// A failed start leaves nothing, two at once are one, and a delete during one
// leaves no VMM.
func TestDefect09FailedStartLeavesNothing(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")

	t.Run("failed", func(t *testing.T) {
		m := w.create("failing", image, `"kernel_args":"init=/no/such/init rdinit=/no/such/init"`)
		w.post("/machines/"+m.ID+"/start", "").refused(500, "RuntimeError", "")
		if m = w.get("/machines/" + m.ID).want(200).machine(); m.Status != "failed" || m.ErrorMessage == nil {
			t.Errorf("after a failed start: %+v", m)
		}
		if left := h.VMMs(); len(left) > 0 {
			t.Errorf("a failed start left %v", left)
		}
		w.delete("/machines/" + m.ID).want(204)
	})
	t.Run("two at once", func(t *testing.T) {
		m := w.create("twice", image)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := h.StartMachine(t.Context(), m.ID); err != nil {
					t.Errorf("start: %v", err)
				}
			})
		}
		wg.Wait()
		if got := w.get("/machines/" + m.ID).want(200).machine(); got.Status != "running" || len(h.VMMs()) != 1 {
			t.Errorf("after two starts at once: %s, VMMs %v", got.Status, h.VMMs())
		}
		w.delete("/machines/" + m.ID).want(204)
	})
	t.Run("deleted", func(t *testing.T) {
		m := w.create("deleted", image)
		started := make(chan error, 1)
		go func() {
			_, err := h.StartMachine(t.Context(), m.ID)
			started <- err
		}()
		hosttest.Await(t, 20*time.Second, "the start is under way", func() error {
			if got := w.get("/machines/" + m.ID).machine(); got.Status != "starting" {
				return fmt.Errorf("status %s", got.Status)
			}
			return nil
		})
		w.delete("/machines/" + m.ID).want(204)
		if err := <-started; err == nil {
			t.Error("the start of a deleted machine succeeded")
		}
		if left := h.VMMs(); len(left) > 0 {
			t.Errorf("a delete during the start left %v", left)
		}
	})
}

// A stop reaches init: programs get their TERM and the time to use it, and what
// was written without a sync is there at the next start.
func TestDefect12StopIsGraceful(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("graceful", image)
	w.exec(m.ID, "sh", "-c", `echo unsynced >/root/data
		(trap 'echo asked >/root/asked; exit' TERM; touch /root/ready; while :; do sleep 0.1; done) >/dev/null 2>&1 &`)
	hosttest.Await(t, 20*time.Second, "the trap is set", func() error {
		if got := w.exec(m.ID, "test", "-e", "/root/ready"); got.ExitCode != 0 {
			return fmt.Errorf("exit code %d", got.ExitCode)
		}
		return nil
	})
	w.post("/machines/"+m.ID+"/stop", "").want(200)
	w.post("/machines/"+m.ID+"/start", "").want(200)
	if got := w.exec(m.ID, "cat", "/root/data", "/root/asked"); got.Stdout != "unsynced\nasked\n" {
		t.Errorf("after the stop: %+v", got)
	}
}

// A create that is refused leaves nothing behind.
func TestDefect14RefusedCreateLeavesNothing(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "")
	for _, field := range []string{`"exposed_ports":[80.5]`, `"exposed_ports":[0]`, `"exposed_ports":[65536]`, `"image":"UPPER/case"`, `"kernel_image_path":"/etc/passwd"`} {
		if a := w.post("/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,`+field+`}`); a.status != 400 && a.status != 403 {
			t.Errorf("%s: status %d, want 400 or 403: %s", field, a.status, a.body)
		}
	}
	if list := w.get("/machines").want(200).machines(); len(list) > 0 {
		t.Errorf("refused, yet there: %+v", list)
	}
	h.AssertNothingLeft()
}

// The README's paths and its prefixed ones are the same; what does not exist is
// 404, another method 405, a wrong body 400, and who has no key learns nothing.
func TestDefect16PathsAndStatuses(t *testing.T) {
	h := hosttest.New(t)
	for _, prefix := range prefixes {
		w := newWire(t, h, prefix)
		w.get("/machines").want(200)
		w.get("/nowhere").refused(404, "not_found", "")
		w.curl("PATCH", "/machines").refused(405, "method_not_allowed", "")
		w.post("/machines", `{}`).refused(400, "validation_error", "")
		w.key = ""
		w.post("/machines", `{}`).refused(401, "unauthorized", "")
	}
}

// No field of a request chooses a device or an address of the host's.
func TestDefect17AddressesAreTheServersChoice(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "")
	for _, field := range []string{
		`"guest_ip":"127.0.0.1"`, `"guest_ip":"169.254.169.254"`, `"tap_device":"tap0"`, `"tap_ip":"10.0.0.1"`, `"guest_mac":"02:00:00:00:00:01"`,
	} {
		w.post("/machines", `{"name":"x","vcpu_count":1,"mem_size_mib":128,"image":"alpine","network":{"enable":true,`+field+`}}`).
			refused(400, "ValidationError", "")
	}
}

// A machine that exposes nothing is reached by nothing; one that exposes a port
// makes the host listen on the loopback alone, at a port of the server's choice.
func TestDefect18NothingIsExposedUnasked(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	if m := w.running("closed", image); len(m.PortForwards) > 0 {
		t.Errorf("forwards although no port is exposed: %+v", m.PortForwards)
	}
	m := w.running("open", image, `"exposed_ports":[22]`)
	if len(m.PortForwards) != 1 || m.PortForwards[0].GuestPort != 22 || m.PortForwards[0].HostPort < 1024 {
		t.Fatalf("forwards: %+v", m.PortForwards)
	}
	w.exec(m.ID, "sh", "-c", `printf '#!/bin/sh\nread l; printf "HTTP/1.0 200 OK\r\n\r\nhello"\n' >/s; chmod +x /s; nc -l -p 22 -e /s >/dev/null 2>&1 </dev/null &`)
	hosttest.Await(t, 30*time.Second, "the exposed port answers", func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", m.PortForwards[0].HostPort), nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Timeout: 5 * time.Second}).Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// The serial console of a guest is a record of its own, not the daemon's output,
// and a request cannot ask for fractions of a CPU or for more than the host's
// operator allows.
func TestDefect23ConsoleAndSizesAreBounded(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	for _, size := range []string{`"vcpu_count":1.5,"mem_size_mib":128`, `"vcpu_count":100000,"mem_size_mib":128`,
		`"vcpu_count":1,"mem_size_mib":128.5`, `"vcpu_count":1,"mem_size_mib":99999999`, `"vcpu_count":1,"mem_size_mib":128,"image_size_mib":99999999`} {
		if a := w.post("/machines", `{"name":"x","image":"alpine",`+size+`}`); a.status != 400 && a.status != 409 && a.status != 507 {
			t.Errorf("%s: status %d: %s", size, a.status, a.body)
		}
	}
	m := w.running("loud", image)
	// Three megabytes, more than any record of a console keeps.
	w.post("/machines/"+m.ID+"/exec", `{"command":["sh","-c","yes forged-log-line | head -c 3000000 >/dev/console"],"timeout":300}`).want(200)
	if log := h.Log(); strings.Contains(log, "forged-log-line") {
		t.Error("the guest writes into the daemon's log")
	}
	for _, dir := range []string{h.Run, h.State} {
		for _, f := range filesBelow(t, dir) {
			info, err := os.Stat(f)
			if err == nil && filepath.Ext(f) != ".ext4" && info.Size() > 2<<20 {
				t.Errorf("%s has grown to %d KiB", f, info.Size()>>10)
			}
		}
	}
}

// With a key of every scope but the one that a request needs, it is refused.
func TestDefect21ScopesAreEnforced(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.create("scoped", image)
	for _, c := range []struct {
		scopes       []string
		method, path string
	}{
		{[]string{hyperfleet.ScopeMachinesRead}, "POST", "/machines/" + m.ID + "/start"},
		{[]string{hyperfleet.ScopeMachinesRead}, "DELETE", "/machines/" + m.ID},
		{[]string{hyperfleet.ScopeMachinesWrite, hyperfleet.ScopeMachinesRead}, "POST", "/machines/" + m.ID + "/exec"},
		{[]string{hyperfleet.ScopeMachinesWrite, hyperfleet.ScopeMachinesExec}, "GET", "/machines"},
		{[]string{hyperfleet.ScopeMachinesRead}, "GET", "/images"},
		{[]string{hyperfleet.ScopeImagesRead}, "POST", "/images/pull"},
		{[]string{hyperfleet.ScopeMachinesRead}, "GET", "/keys"},
	} {
		k, err := h.CreateKey(t.Context(), hyperfleet.CreateKeyRequest{Name: "narrow", Scopes: c.scopes})
		if err != nil {
			t.Fatal(err)
		}
		narrow := w
		narrow.key = k.Secret
		narrow.curl(c.method, c.path).refused(403, "forbidden", "")
	}
}
