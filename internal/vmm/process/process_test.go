package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// start starts a shell that runs script, with the given files.
func start(t *testing.T, script string) *Process {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	must(t, err)
	defer null.Close()
	shell, err := exec.LookPath("sh")
	must(t, err)
	p, err := Start(Command{
		Path: shell, Argv: []string{"sh", "-c", script, "process-test"},
		Files: []*os.File{null, null, null},
	})
	must(t, err)
	t.Cleanup(func() {
		p.Kill()
		p.Wait(context.Background())
		p.Close()
	})
	return p
}

func TestWaitReportsHowItEnded(t *testing.T) {
	for script, want := range map[string]Status{
		"exit 0":        {Known: true},
		"exit 7":        {Known: true, Code: 7},
		"kill -TERM $$": {Known: true, Code: -1, Signal: "SIGTERM"},
	} {
		got, err := start(t, script).Wait(t.Context())
		must(t, err)
		if got != want {
			t.Errorf("%s: %+v, want %+v", script, got, want)
		}
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	p := start(t, "sleep 60")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := p.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("wait gives %v", err)
	}
	must(t, p.Kill())
	if st, err := p.Wait(t.Context()); err != nil || st.Signal != "SIGKILL" {
		t.Errorf("second wait gives %+v, %v", st, err)
	}
	must(t, p.Kill()) // an ended one: no error
}

func TestClosedHandle(t *testing.T) {
	p := start(t, "exit 0")
	_, err := p.Wait(t.Context())
	must(t, err)
	p.Close()
	p.Close()
	if err := p.Kill(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("kill gives %v", err)
	}
	if _, err := p.Wait(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("wait gives %v", err)
	}
}

func TestStartIsolates(t *testing.T) {
	leak, err := unix.Dup(0) // without close-on-exec: what we might have been started with
	must(t, err)
	defer unix.Close(leak)
	p := start(t, "sleep 60")
	dir := "/proc/" + strconv.Itoa(p.Identity().PID)
	fds, err := os.ReadDir(dir + "/fd")
	must(t, err)
	if len(fds) != 3 {
		t.Errorf("%d descriptors are inherited: %v", len(fds), fds)
	}
	status, err := os.ReadFile(dir + "/status")
	must(t, err)
	if !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Error("privileges can be gained")
	}
	if env, err := os.ReadFile(dir + "/environ"); err != nil || len(env) != 0 {
		t.Errorf("environment is %q: %v", env, err)
	}
	if sid, err := unix.Getsid(p.Identity().PID); err != nil || sid != p.Identity().PID {
		t.Errorf("session is %d: %v", sid, err)
	}
	if nnp, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err != nil || nnp != 0 {
		t.Errorf("our own thread cannot gain privileges any more: %d, %v", nnp, err)
	}
}

func TestStartRestoresTheCoreLimit(t *testing.T) {
	var before, after unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_CORE, &before))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { start(t, "exit 0") })
	}
	wg.Wait()
	must(t, unix.Getrlimit(unix.RLIMIT_CORE, &after))
	if before != after {
		t.Errorf("limit is %+v, was %+v", after, before)
	}
}

func TestStartFails(t *testing.T) {
	if _, err := Start(Command{Path: filepath.Join(t.TempDir(), "nothing"), Argv: []string{"nothing"}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start gives %v", err)
	}
}

func TestOpenChecksEverything(t *testing.T) {
	p := start(t, "sleep 60")
	id := p.Identity()
	same, err := Open(id)
	must(t, err)
	same.Close()
	for name, spoil := range map[string]func(*Identity){
		"pid":        func(i *Identity) { i.PID = os.Getpid() },
		"init":       func(i *Identity) { i.PID = 1 },
		"negative":   func(i *Identity) { i.PID = -1 },
		"no pid":     func(i *Identity) { i.PID = 1 << 30 },
		"start time": func(i *Identity) { i.StartTime-- },
		"executable": func(i *Identity) { i.Exe += "x" },
		"boot":       func(i *Identity) { i.BootID = "" },
	} {
		wrong := id
		spoil(&wrong)
		if _, err := Open(wrong); !errors.Is(err, ErrGone) {
			t.Errorf("%s: open gives %v", name, err)
		}
	}
}

func TestOpenReapsAnEndedChild(t *testing.T) {
	p := start(t, "sleep 60")
	must(t, p.Kill())
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := Open(p.Identity())
		if errors.Is(err, ErrGone) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("open gives %v", err)
		}
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(p.Identity().PID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the child was not reaped: %v", err)
	}
}

func TestFind(t *testing.T) {
	mark := "mark-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	p := start(t, "kill -STOP $$; : "+mark) // without a child that looks like it
	match := func(argv []string) bool { return len(argv) == 4 && strings.HasSuffix(argv[2], mark) }
	found, err := Find(os.Getuid(), match)
	must(t, err)
	if len(found) != 1 || found[0] != p.Identity() {
		t.Errorf("found %+v, want %+v", found, p.Identity())
	}
	if found, err := Find(os.Getuid()+1, match); err != nil || len(found) != 0 {
		t.Errorf("found %+v of another user, %v", found, err)
	}
}

func TestParseStat(t *testing.T) {
	fields := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	for in, want := range map[string]uint64{
		"12 (sh)" + fields:             4242,
		"12 (a) S 1 2 (b c))" + fields: 4242,
		"12 (sh":                       0,
		"":                             0,
		"12 (sh) S 1 2":                0,
	} {
		got, err := parseStat([]byte(in))
		if got.startTime != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
