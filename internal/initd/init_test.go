package initd

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseEndpoint(t *testing.T) {
	for cmdline, want := range map[string]endpoint{
		"":         {},
		"quiet ro": {},
		"a b hyperfleet.agent=serial:hyperfleet.agent c\n":   {serial: "hyperfleet.agent"},
		"hyperfleet.agent=vsock:1024":                        {vsock: 1024},
		"hyperfleet.agent=serial:a hyperfleet.agent=vsock:7": {vsock: 7},
	} {
		if got, err := parseEndpoint(cmdline); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", cmdline, got, err, want)
		}
	}
	for _, cmdline := range []string{"hyperfleet.agent=", "hyperfleet.agent=serial:", "hyperfleet.agent=vsock:0", "hyperfleet.agent=vsock:x", "hyperfleet.agent=tcp:1"} {
		if ep, err := parseEndpoint(cmdline); err == nil {
			t.Errorf("%q: %+v", cmdline, ep)
		}
	}
}

func TestHostsKeepsTheImagesLines(t *testing.T) {
	for name, tt := range map[string]struct{ old, want string }{
		"empty":       {"", "127.0.0.1\tlocalhost # hyperfleet\n::1\tlocalhost # hyperfleet\n127.0.1.1\tbox # hyperfleet\n"},
		"own lines":   {"127.0.0.1 localhost\n::1 ip6 localhost\n10.0.0.1 db # mine", "127.0.0.1 localhost\n::1 ip6 localhost\n10.0.0.1 db # mine\n127.0.1.1\tbox # hyperfleet\n"},
		"second boot": {"10.0.0.1 db\n127.0.1.1\told # hyperfleet\n", "10.0.0.1 db\n127.0.0.1\tlocalhost # hyperfleet\n::1\tlocalhost # hyperfleet\n127.0.1.1\tbox # hyperfleet\n"},
	} {
		got := hosts(tt.old, "box")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
		if again := hosts(got, "box"); again != got {
			t.Errorf("%s: not stable: %q", name, again)
		}
	}
}

func TestValidHostname(t *testing.T) {
	for name, want := range map[string]bool{
		"a": true, "web-1.example": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\n10.0.0.1 evil": false, "ü": false, "a#": false,
	} {
		if validHostname(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestParseMounts(t *testing.T) {
	const table = `29 1 0:22 / / rw,relatime - overlay overlay rw,lowerdir=/base
30 29 254:16 /v/x /da\040ta rw shared:1 master:2 - ext4 /dev/vdb rw
broken line
31 29 254:16 / /back\134slash\011tab rw - tmpfs
32 29 0:5 / /dev rw,nosuid - devtmpfs devtmpfs rw
`
	want := []mounted{{"/", "overlay"}, {"/da ta", "ext4"}, {"/back\\slash\ttab", "tmpfs"}, {"/dev", "devtmpfs"}}
	if diff := cmp.Diff(want, parseMounts(table), cmp.AllowUnexported(mounted{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("29 1 0:22 / / rw - overlay overlay rw\n")
	f.Add(" - \n\\0\\040 - x")
	f.Fuzz(func(t *testing.T, table string) {
		if n := len(parseMounts(table)); n > strings.Count(table, "\n")+1 {
			t.Errorf("%d mounts", n)
		}
	})
}

func TestFindPort(t *testing.T) {
	dir := t.TempDir()
	for port, name := range map[string]string{"vport0p1": "console", "vport1p1": "hyperfleet.agent"} {
		if err := errors.Join(os.Mkdir(filepath.Join(dir, port), 0o755), os.WriteFile(filepath.Join(dir, port, "name"), []byte(name+"\n"), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if dev, err := findPort(dir, "hyperfleet.agent"); dev != "/dev/vport1p1" || err != nil {
		t.Errorf("%q, %v", dev, err)
	}
	for _, d := range []string{dir, dir + "/none"} {
		if _, err := findPort(d, "other"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v", err)
		}
	}
}

func TestConsoleLinesAreJSON(t *testing.T) {
	var b bytes.Buffer
	newLog(&b).Printf("two\nlines \x1b %q", "x")
	var line struct{ Time, Source, Msg string }
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || bytes.Count(b.Bytes(), []byte("\n")) != 1 {
		t.Fatalf("%q: %v", b.String(), err)
	}
	if line.Msg != "two\nlines \x1b \"x\"" || line.Source != "hyperfleet-init" || line.Time == "" {
		t.Errorf("%+v", line)
	}
}

func TestOpenModules(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "modules")
	if err := errors.Join(os.WriteFile(list, []byte("a.ko\n../b.ko\n\nc.ko\nmissing.ko\n"), 0o644), os.WriteFile(dir+"/c.ko", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	m, err := openModules(list, dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{dir + "/a.ko", dir + "/b.ko"}, m.now); diff != "" || len(m.later) != 1 {
		t.Errorf("%s, %d for later", diff, len(m.later))
	}
	if err := m.load(); err != nil { // neither is there
		t.Error(err)
	}
	if err := m.loadUntil(func() bool { return true }); err != nil || len(m.later) != 1 {
		t.Errorf("enough from the start: %v, %d left", err, len(m.later))
	}
	if err := m.loadUntil(func() bool { return false }); err == nil { // an empty file is no module
		t.Error("an empty module was loaded")
	}
}

func TestProcess1SurvivesSignals(t *testing.T) {
	defer survive()()
	for _, sig := range survivable {
		if err := unix.Kill(os.Getpid(), sig.(unix.Signal)); err != nil {
			t.Error(err)
		}
	}
	// A command has them at their defaults: none is ignored.
	out, err := exec.CommandContext(t.Context(), "grep", "SigIgn", "/proc/self/status").Output()
	if err != nil {
		t.Fatal(err)
	}
	ignored, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(string(out), "SigIgn:")), 16, 64)
	for _, sig := range survivable {
		if err != nil || ignored>>(sig.(unix.Signal)-1)&1 != 0 {
			t.Errorf("%v is ignored: %q, %v", sig, out, err)
		}
	}
}
