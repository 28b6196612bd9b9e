package config

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// write puts a file of ours into a folder of the test's.
func write(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	file := write(t, "env", "PORT=1001\nHYPERFLEET_LOG_LEVEL=debug\nHYPERFLEET_MAX_VCPUS=7\n", 0o640)
	l, err := load(Sources{EnvFile: file, Flags: map[string]string{"PORT": "1003", "HYPERFLEET_RUN_DIR": ""}},
		map[string]string{"PORT": "1002", "HYPERFLEET_LOG_LEVEL": "warn", "HYPERFLEET_MAX_VCPUS": "", "HYPERFLEET_ENV_FILE": "/nowhere"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Value{}
	for _, v := range l.Values {
		got[v.Name] = v
	}
	for _, want := range []Value{
		{"PORT", "1003", FromFlag},
		{"HYPERFLEET_LOG_LEVEL", "warn", FromEnvironment},
		{"HYPERFLEET_MAX_VCPUS", "7", FromFile}, // empty in the environment is unset
		{"HYPERFLEET_RUN_DIR", "/run/hyperfleet", FromDefault},
		{"DATABASE_PATH", "/var/lib/hyperfleet/hyperfleet.db", FromDefault},
		{"HYPERFLEET_QEMU_BIN", "", FromDefault},
	} {
		if got[want.Name] != want {
			t.Errorf("%+v, want %+v", got[want.Name], want)
		}
	}
	if l.Port != 1003 || l.MaxVCPUs != 7 || len(l.Values) != len(Variables()) || len(l.Warnings) != 0 {
		t.Errorf("port %d, vCPUs %d, %d values, warnings %q", l.Port, l.MaxVCPUs, len(l.Values), l.Warnings)
	}
	if _, err := load(Sources{}, map[string]string{"HYPERFLEET_ENV_FILE": file}); err != nil {
		t.Errorf("file that the environment names: %v", err)
	}
}

// No file is read that nobody named, and a wrong one ends the program.
func TestEnvFileThatIsWrong(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, name := range []string{".env", ".env.local", ".env.production"} {
		if err := os.WriteFile(name, []byte("PORT=99\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if l, err := load(Sources{Folder: "."}, nil); err != nil || l.Port != 3000 {
		t.Errorf("port %d, %v: a file of the working folder is read", l.Port, err)
	}
	for name, bad := range map[string]struct{ path, want string }{
		"missing":   {"/nowhere/env", "no such file"},
		"folder":    {t.TempDir(), "no regular file"},
		"device":    {"/dev/zero", "no regular file"},
		"open":      {write(t, "env", "PORT=1\n", 0o602), "written by others"},
		"large":     {write(t, "env", strings.Repeat("#", maxEnvFile+1), 0o600), "larger than"},
		"no value":  {write(t, "env", "PORT=1\nsecret word\n", 0o600), "line 2: want NAME=value"},
		"twice":     {write(t, "env", "A=1\n\nA=2\n", 0o600), "line 3: A is set on line 1"},
		"unclosed":  {write(t, "env", "A=\"1\n", 0o600), "line 1: A: the quote is not closed"},
		"more":      {write(t, "env", "A='1' 2\n", 0o600), "behind the closing quote"},
		"zero byte": {write(t, "env", "A=\x00\n", 0o600), "line 1: want"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(Sources{EnvFile: bad.path}, nil)
			if err == nil || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v, want %s", err, bad.want)
			}
		})
	}
}

func TestParseEnvFile(t *testing.T) {
	vars, err := parseEnvFile([]byte("# comment\r\n\r\nA=plain # comment\nexport B=\"two \\\"words\\\" # and \\\\\"\nC='$A \\ #' # comment\n D = spaces \nE=\nF=a#b\nG=#none\n"))
	want := map[string]string{"A": "plain", "B": `two "words" # and \`, "C": `$A \ #`, "D": "spaces", "E": "", "F": "a#b", "G": ""}
	if err != nil || !maps.Equal(vars, want) {
		t.Errorf("%q, %v, want %q", vars, err, want)
	}
}

// A file that a shell would read the same way keeps its values.
func FuzzParseEnvFile(f *testing.F) {
	f.Add([]byte("A=1\nexport B='x y'\n# c\n"))
	f.Add([]byte("A=\"\\"))
	f.Add([]byte("=\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		vars, err := parseEnvFile(raw)
		for name, value := range vars {
			if !assignment.MatchString(name+"=") || err == nil && strings.ContainsAny(value, "\x00\n") {
				t.Errorf("%q=%q", name, value)
			}
		}
	})
}

func TestWarnings(t *testing.T) {
	environment := map[string]string{
		"HYPERFLEET_STATEDIR": "x", "HYPERFLEET_MAX_VCPU": "2", "HYPERFLEET_SOCKET_DIR": "/tmp", "HYPERFLEET_ZZZZZZZZZ": "",
		"HYPERFLEET_HOST": "h", "HYPERFLEET_TEST_CACHE": "", "PATH": "/bin", "KERNEL_PATH": "somebody else's",
	}
	got := warnings(environment, false)
	want := []string{
		"HYPERFLEET_MAX_VCPU is unknown and has no effect: do you mean HYPERFLEET_MAX_VCPUS?",
		"HYPERFLEET_SOCKET_DIR has no effect: sockets are in HYPERFLEET_RUN_DIR, a folder of the daemon's own, and not in /tmp where others could take their names",
		"HYPERFLEET_STATEDIR is unknown and has no effect: do you mean HYPERFLEET_STATE_DIR?",
		"HYPERFLEET_ZZZZZZZZZ is unknown and has no effect",
	}
	if !slices.Equal(got, want) {
		t.Errorf("warnings %q, want %q", got, want)
	}
	// In a file, all is meant for us.
	got = warnings(map[string]string{"PROT": "3000", "KERNEL_PATH": "/x", "PORT": "1"}, true)
	want = []string{"KERNEL_PATH has no effect: use HYPERFLEET_KERNEL_IMAGE_PATH", "PROT is unknown and has no effect: do you mean PORT?"}
	if !slices.Equal(got, want) {
		t.Errorf("warnings of a file %q, want %q", got, want)
	}
}

func TestDistance(t *testing.T) {
	for _, d := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"PORT", "PROT", 2}, {"A", "B", 1}} {
		if got := distance(d.a, d.b); got != d.want || distance(d.b, d.a) != d.want {
			t.Errorf("distance of %q and %q: %d, want %d", d.a, d.b, got, d.want)
		}
	}
}

// The reference's default files are used where they are: assets before
// .hyperfleet, what is configured before both, and none that others can write.
func TestDefaultFiles(t *testing.T) {
	folder := t.TempDir()
	put := func(name string) {
		t.Helper()
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	used := func(vars map[string]string) [2]string {
		t.Helper()
		l, err := load(Sources{Folder: folder}, vars)
		if err != nil {
			t.Fatal(err)
		}
		if found := len(l.Warnings) > 0; found != (vars == nil && l.Kernel+l.Rootfs != "") {
			t.Errorf("kernel %q, root filesystem %q, told: %q", l.Kernel, l.Rootfs, l.Warnings)
		}
		return [2]string{strings.TrimPrefix(l.Kernel, folder), strings.TrimPrefix(l.Rootfs, folder)}
	}
	if got := used(nil); got != [2]string{} {
		t.Errorf("in an empty folder: %q", got)
	}
	put(".hyperfleet/vmlinux")
	put(".hyperfleet/alpine-rootfs.ext4")
	if got := used(nil); got != [2]string{"/.hyperfleet/vmlinux", "/.hyperfleet/alpine-rootfs.ext4"} {
		t.Errorf("with .hyperfleet: %q", got)
	}
	put("assets/vmlinux")
	if got := used(nil); got != [2]string{"/assets/vmlinux", "/.hyperfleet/alpine-rootfs.ext4"} {
		t.Errorf("with assets: %q", got)
	}
	own := map[string]string{"HYPERFLEET_KERNEL_IMAGE_PATH": "/k", "HYPERFLEET_ROOTFS_PATH": "/r"}
	if got := used(own); got != [2]string{"/k", "/r"} {
		t.Errorf("configured: %q", got)
	}
	if err := os.Chmod(filepath.Join(folder, "assets"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(folder, ".hyperfleet/vmlinux"), 0o666); err != nil {
		t.Fatal(err)
	}
	if got := used(nil); got[0] != "" {
		t.Errorf("a kernel that anybody can replace is used: %q", got)
	}
}

// Paths may be relative to where the daemon is started; the database's and the
// kernel's users need not know where that was.
func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	l, err := load(Sources{}, map[string]string{"DATABASE_PATH": "./x.db", "HYPERFLEET_KERNEL_IMAGE_PATH": "assets/k"})
	if err != nil || l.Database != dir+"/x.db" || l.Kernel != dir+"/assets/k" || l.Rootfs != "" {
		t.Errorf("database %s, kernel %s, %v", l.Database, l.Kernel, err)
	}
}
