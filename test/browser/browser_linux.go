package browser

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds one step of a test.
const patience = 30 * time.Second

// Browser is a running Chromium with one page.
type Browser struct {
	// Listener is reached from the page, and from nowhere else.
	Listener net.Listener

	t       testing.TB
	to      *os.File
	session string
	seq     int

	mu       sync.Mutex
	answers  map[int]chan message
	requests []string // URLs that the page asked for
	trouble  []string // what the page complained of
}

type message struct {
	ID        int             `json:"id,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    any             `json:"params,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
}

// Start starts Chromium, which ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	b := &Browser{t: t, answers: map[int]chan message{}}
	fromUs, toChromium, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fromChromium, toUs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b.to = toChromium
	cmd := exec.Command("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--window-size=1280,1600", "--user-data-dir="+t.TempDir(), "--remote-debugging-pipe", "about:blank")
	cmd.ExtraFiles = []*os.File{fromUs, toUs} // 3 and 4, where Chromium expects them
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := alone(func() (err error) {
		if b.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		return cmd.Start()
	}); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	fromUs.Close()
	toUs.Close()
	read := make(chan struct{})
	go func() {
		defer close(read)
		b.read(fromChromium)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with its children
		_ = cmd.Wait()
		toChromium.Close()
		fromChromium.Close()
		<-read
	})
	b.open()
	return b
}

// alone runs f in a new network namespace with a loopback. The thread that
// belongs to it ends with f; sockets and children of f stay in the namespace.
func alone(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is of no use to others
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			if err := loopbackUp(); err != nil {
				return fmt.Errorf("set the loopback up: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// read takes in what Chromium says until its end.
func (b *Browser) read(from *os.File) {
	in := bufio.NewReader(from)
	for {
		raw, err := in.ReadBytes(0)
		if err != nil {
			return
		}
		var m message
		if json.Unmarshal(bytes.TrimSuffix(raw, []byte{0}), &m) != nil {
			continue
		}
		b.mu.Lock()
		if answer := b.answers[m.ID]; m.ID != 0 && answer != nil {
			delete(b.answers, m.ID)
			answer <- m
		} else {
			b.note(m)
		}
		b.mu.Unlock()
	}
}

// note keeps what tests ask for afterwards. It needs mu.
func (b *Browser) note(m message) {
	params, _ := m.Params.(map[string]any)
	switch m.Method {
	case "Network.requestWillBeSent":
		request, _ := params["request"].(map[string]any)
		b.requests = append(b.requests, fmt.Sprint(request["url"]))
	case "Log.entryAdded":
		entry, _ := params["entry"].(map[string]any)
		if entry["level"] == "error" {
			b.trouble = append(b.trouble, fmt.Sprint(entry["text"], " ", entry["url"]))
		}
	case "Runtime.exceptionThrown":
		b.trouble = append(b.trouble, fmt.Sprint(params["exceptionDetails"]))
	}
}

// call asks Chromium and decodes the answer into out, unless that is nil.
func (b *Browser) call(method string, params, out any) {
	b.t.Helper()
	b.seq++
	answer := make(chan message, 1)
	b.mu.Lock()
	b.answers[b.seq] = answer
	b.mu.Unlock()
	raw, err := json.Marshal(message{ID: b.seq, SessionID: b.session, Method: method, Params: params})
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.to.Write(append(raw, 0)); err != nil {
		b.t.Fatalf("ask chromium for %s: %v", method, err)
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case m := <-answer:
		if m.Error != nil {
			b.t.Fatalf("%s: %s", method, m.Error.Message)
		}
		if out != nil {
			if err := json.Unmarshal(m.Result, out); err != nil {
				b.t.Fatalf("%s: %v", method, err)
			}
		}
	case <-timeout.C:
		b.t.Fatalf("%s: chromium does not answer", method)
	}
}
