package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// The closest word says which server it is, and a key goes to no other server
// than the one it was given for.
func TestSelectServer(t *testing.T) {
	dir := t.TempDir()
	g := &globals{App: &App{Getenv: func(name string) string {
		return map[string]string{"XDG_CONFIG_HOME": dir}[name]
	}}}
	err := g.updateContexts(func(f *contextFile) error {
		f.Current = "current"
		f.Contexts["current"] = serverContext{Host: "https://current.test", APIKey: "key of current"}
		f.Contexts["named"] = serverContext{Host: "https://named.test", APIKey: "key of named"}
		f.Contexts["open"] = serverContext{Host: "https://open.test"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, host, context string
		env                 map[string]string
		wantHost, wantKey   string
	}{
		{"nothing said", "", "", nil, "https://current.test", "key of current"},
		{"a flag", "https://flag.test", "", map[string]string{"HYPERFLEET_HOST": "https://env.test"}, "https://flag.test", "env key"},
		{"a context", "", "named", map[string]string{"HYPERFLEET_HOST": "https://env.test"}, "https://named.test", "key of named"},
		{"host of the environment", "", "", map[string]string{"HYPERFLEET_HOST": "https://env.test", "HYPERFLEET_CONTEXT": "named"}, "https://env.test", "env key"},
		{"context of the environment", "", "", map[string]string{"HYPERFLEET_CONTEXT": "named", "HYPERFLEET_RUN_DIR": "/r"}, "https://named.test", "key of named"},
		{"run folder", "", "", map[string]string{"HYPERFLEET_RUN_DIR": "/r"}, "unix:///r/api.sock", "env key"},
		{"context without a key", "", "open", nil, "https://open.test", "env key"},
		{"default", "", "default", nil, "", "env key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &globals{host: c.host, contextName: c.context, App: &App{Getenv: func(name string) string {
				switch name {
				case "XDG_CONFIG_HOME":
					return dir
				case "HYPERFLEET_API_KEY":
					return "env key"
				}
				return c.env[name]
			}}}
			if err := g.selectServer(); err != nil {
				t.Fatal(err)
			}
			if client := g.client(); client.Host != c.wantHost || client.APIKey != c.wantKey {
				t.Errorf("%s with %q, want %s with %q (because of %s)", client.Host, client.APIKey, c.wantHost, c.wantKey, g.server.because)
			}
		})
	}
}

// Two at once keep each other's contexts, and leave nothing behind.
func TestUpdateContextsConcurrently(t *testing.T) {
	dir := t.TempDir()
	g := &globals{App: &App{Getenv: func(string) string { return dir }}}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := g.updateContexts(func(f *contextFile) error {
				f.Contexts[fmt.Sprint(i)] = serverContext{Host: "h"}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	file, err := g.readContexts()
	if err != nil || len(file.Contexts) != 20 {
		t.Errorf("%d contexts, %v", len(file.Contexts), err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "hyperfleet"))
	if err != nil || len(left) != 2 { // the file and its lock
		t.Errorf("left %v, %v", left, err)
	}
}

func TestInTheClear(t *testing.T) {
	for host, want := range map[string]bool{
		"http://far.test:3000": true, "http://10.0.0.1": true, "https://far.test": false, "unix:///x": false,
		"http://localhost:3000": false, "http://127.0.0.1:3000": false, "http://[::1]:3000": false,
	} {
		if inTheClear(host) != want {
			t.Errorf("%s: %v", host, !want)
		}
	}
}
