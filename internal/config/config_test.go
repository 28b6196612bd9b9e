package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestDefaults(t *testing.T) {
	c, err := Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Database != "/var/lib/hyperfleet/hyperfleet.db" || c.ImageDir != "/var/lib/hyperfleet/images" {
		t.Errorf("database %s, images %s", c.Database, c.ImageDir)
	}
	if c.Address() != ":3000" || c.LoopbackAddress() != "127.0.0.1:3000" || c.Socket() != "/run/hyperfleet/api.sock" || c.AuthDisabled() {
		t.Errorf("listens on %s, %s and %s", c.Address(), c.LoopbackAddress(), c.Socket())
	}
	if c.FileTimeout.Duration() != time.Minute || c.LogLevel.Level != slog.LevelInfo {
		t.Errorf("file timeout %v, log level %v", c.FileTimeout.Duration(), c.LogLevel)
	}
}

func TestStateDirMovesTheRest(t *testing.T) {
	c, err := Parse(map[string]string{"HYPERFLEET_STATE_DIR": "/srv/hf", "DATABASE_PATH": "", "DISABLE_AUTH": "true"})
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(c.Database) != "/srv/hf" || c.ImageDir != "/srv/hf/images" || c.KernelDir() != "/srv/hf/kernel" {
		t.Errorf("%+v", c)
	}
}

func TestPortAddresses(t *testing.T) {
	for _, c := range []struct{ listen, address, loopback string }{
		{"", ":3000", "127.0.0.1:3000"},
		{"10.1.2.3", "10.1.2.3:3000", "127.0.0.1:3000"},
		{"127.0.0.5", "127.0.0.5:3000", "127.0.0.5:3000"},
		{"::1", "[::1]:3000", "[::1]:3000"},
		{"::", "[::]:3000", "127.0.0.1:3000"},
	} {
		cfg, err := Parse(map[string]string{"HYPERFLEET_LISTEN": c.listen})
		if err != nil || cfg.Address() != c.address || cfg.LoopbackAddress() != c.loopback {
			t.Errorf("%q: %s, %s, %v", c.listen, cfg.Address(), cfg.LoopbackAddress(), err)
		}
	}
}

func TestDurationsDoNotOverflow(t *testing.T) {
	c, err := Parse(map[string]string{"HYPERFLEET_BOOT_TIMEOUT": "9223372036854775807"})
	if err != nil || c.BootTimeout.Duration() < 290*365*24*time.Hour {
		t.Errorf("%v, %v", c.BootTimeout.Duration(), err)
	}
}

// Only the exact word opens the API.
func TestDisableAuthIsExact(t *testing.T) {
	for _, v := range []string{"1", "TRUE", "yes", "true "} {
		if c, err := Parse(map[string]string{"DISABLE_AUTH": v}); err != nil || c.AuthDisabled() {
			t.Errorf("DISABLE_AUTH=%q: disabled %v, %v", v, c.AuthDisabled(), err)
		}
	}
}

// Every wrong value is told with its variable and what that accepts.
func TestWrongValues(t *testing.T) {
	wrong := map[string]string{
		"PORT": "70000", "HYPERFLEET_STATE_DIR": "relative", "HYPERFLEET_RUN_DIR": "/" + strings.Repeat("r", 88),
		"HYPERFLEET_LOG_LEVEL": "loud", "HYPERFLEET_OCI_MAX_CACHE_SIZE": "10G", "HYPERFLEET_FILE_MAX_SIZE": "-1",
		"HYPERFLEET_OCI_DEFAULT_ROOTFS_SIZE_MIB": "1", "HYPERFLEET_RUNTIME": "docker", "HYPERFLEET_EXEC_MAX_TIMEOUT": "1h",
		"HYPERFLEET_ALLOWED_DIRS": "a,b", "HYPERFLEET_ALLOW_UNGUARDED_NETWORK": "maybe", "HYPERFLEET_UID_BASE": "-5",
		"HYPERFLEET_LOG_FORMAT": "xml", "HYPERFLEET_METRICS_LISTEN": "9090", "WATCHDOG_USEC": "-1",
		"HYPERFLEET_OCI_CACHE_DIR": "cache", "HYPERFLEET_BOOT_TIMEOUT": "0", "HYPERFLEET_LISTEN": "localhost:80",
		"HYPERFLEET_MAX_MACHINES": "-1", "HYPERFLEET_KEY_MAX_EXECS": "many", "HYPERFLEET_MAX_CONNECTIONS": "-8",
		"HYPERFLEET_TLS_KEY": "/k", "HYPERFLEET_TLS_SELF_SIGNED": "maybe", "HYPERFLEET_CORS_ORIGINS": "https://a.test/path",
	}
	for name, value := range wrong {
		t.Run(name, func(t *testing.T) {
			_, err := Parse(map[string]string{name: value})
			if err == nil || !strings.Contains(err.Error(), name+"=") || !strings.Contains(err.Error(), ": want ") {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		})
	}
	_, err := Parse(map[string]string{"PORT": "0", "HYPERFLEET_STATE_DIR": "x"})
	if err == nil || strings.Count(err.Error(), "want") != 2 {
		t.Errorf("two wrong values: %v", err)
	}
}

// Values that are good alone, and not together.
func TestWrongTogether(t *testing.T) {
	for _, c := range []struct {
		name string
		vars map[string]string
	}{
		{"HYPERFLEET_TLS_KEY", map[string]string{"HYPERFLEET_TLS_CERT": "/c"}},
		{"HYPERFLEET_TLS_SELF_SIGNED", map[string]string{"HYPERFLEET_TLS_CERT": "/c", "HYPERFLEET_TLS_KEY": "/k", "HYPERFLEET_TLS_SELF_SIGNED": "true"}},
		{"HYPERFLEET_CORS_ORIGINS", map[string]string{"HYPERFLEET_CORS_ORIGINS": "*", "DISABLE_AUTH": "true"}},
		{"HYPERFLEET_CORS_ORIGINS", map[string]string{"HYPERFLEET_CORS_ORIGINS": "*,https://a.test"}},
		{"HYPERFLEET_CORS_ORIGINS", map[string]string{"HYPERFLEET_CORS_ORIGINS": "https://A.test"}},
		{"HYPERFLEET_CORS_ORIGINS", map[string]string{"HYPERFLEET_CORS_ORIGINS": "null"}},
	} {
		if _, err := Parse(c.vars); err == nil || !strings.Contains(err.Error(), c.name+"=") {
			t.Errorf("%v: %v", c.vars, err)
		}
	}
	for _, vars := range []map[string]string{
		{"HYPERFLEET_TLS_CERT": "/c", "HYPERFLEET_TLS_KEY": "/k"},
		{"HYPERFLEET_TLS_SELF_SIGNED": "true"},
		{"HYPERFLEET_CORS_ORIGINS": "*"},
		{"HYPERFLEET_CORS_ORIGINS": "https://a.test,http://localhost:5173"},
	} {
		if _, err := Parse(vars); err != nil {
			t.Errorf("%v: %v", vars, err)
		}
	}
}

// The reference's own words for its proxy's variables, and nobody else's.
func TestWrongProxyValues(t *testing.T) {
	for name, bad := range map[string]struct{ value, want string }{
		"PROXY_PORT":                          {"70000", "Invalid proxy configuration: PROXY_PORT must be a valid TCP port"},
		"PROXY_PREFIX":                        {"/a b", "Invalid proxy configuration: PROXY_PREFIX must be a path of letters, digits and ._~-"},
		"PROXY_HOST_SUFFIX":                   {"a_b.test", "Invalid proxy configuration: PROXY_HOST_SUFFIX must be a domain name"},
		"PROXY_EXPOSED_PORT_POLL_INTERVAL_MS": {"-1", "Invalid proxy configuration: PROXY_EXPOSED_PORT_POLL_INTERVAL_MS must be an integer >= 0"},
	} {
		if _, err := Parse(map[string]string{name: bad.value}); err == nil || err.Error() != bad.want {
			t.Errorf("%s=%s: %v, want %s", name, bad.value, err, bad.want)
		}
	}
	good := map[string]string{"PROXY_PORT": "4001", "PROXY_PREFIX": "/p/q", "PROXY_HOST_SUFFIX": ".Fleet.test", "PROXY_EXPOSED_PORT_POLL_INTERVAL_MS": "0"}
	if _, err := Parse(good); err != nil {
		t.Error(err)
	}
}

// One start tells of all that is wrong: what does not parse, once, and what
// parses and makes no sense.
func TestAllWrongValuesAtOnce(t *testing.T) {
	_, err := Parse(map[string]string{"PORT": "many", "HYPERFLEET_STATE_DIR": "x", "PROXY_PORT": "0", "HYPERFLEET_MAX_VCPUS": "0"})
	want := []string{"HYPERFLEET_STATE_DIR=\"x\": want", "PORT=\"many\": want", "PROXY_PORT must be", "HYPERFLEET_MAX_VCPUS=\"0\": want"}
	if err == nil {
		t.Fatal("no error")
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) != len(want) {
		t.Fatalf("errors %q, want one of each %q", lines, want)
	}
	for i := range want {
		if !strings.Contains(lines[i], want[i]) {
			t.Errorf("error %q, want %q", lines[i], want[i])
		}
	}
}

// The tables in the documentation are made of Variables and Ignored.
func TestVariablesAreDocumented(t *testing.T) {
	var table, ignored strings.Builder
	for _, v := range Ignored() {
		fmt.Fprintf(&ignored, "| `%s` | %s |\n", v.Name, v.Accepts)
	}
	seen := map[string]bool{}
	for _, v := range Variables() {
		if v.Name == "" || v.Accepts == "" || seen[v.Name] {
			t.Errorf("variable %+v", v)
		}
		seen[v.Name] = true
		def := ""
		if v.Default != "" {
			def = "`" + v.Default + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", v.Name, def, v.Accepts)
	}
	doc, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), table.String()) {
		t.Errorf("docs/configuration.md must have these rows:\n%s", table.String())
	}
	if !strings.Contains(string(doc), ignored.String()) {
		t.Errorf("docs/configuration.md must have these rows:\n%s", ignored.String())
	}
}

func TestListenAddresses(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:9090": "tcp 127.0.0.1:9090", ":9090": "tcp :9090", "[::1]:9090": "tcp [::1]:9090",
		"unix:///run/m.sock": "unix /run/m.sock",
		"unix://m.sock":      "", "localhost": "", "localhost:http": "", "localhost:0": "", "localhost:70000": "",
		"unix:///" + strings.Repeat("x", 107): "",
	} {
		c, err := Parse(map[string]string{"HYPERFLEET_METRICS_LISTEN": address})
		network, at := SplitListen(c.MetricsListen)
		if got := network + " " + at; (err == nil) != (want != "") || err == nil && got != want {
			t.Errorf("%s: %q, %v, want %q", address, got, err, want)
		}
	}
}
