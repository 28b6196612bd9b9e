package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/hyperfleet/hyperfleet"
)

const (
	// defaultContext is this host's own daemon. It is always there.
	defaultContext = "default"
	maxContextFile = 1 << 20 // bytes
)

var contextNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// contextFile is what a user has said about servers. It holds keys: the file is
// its owner's alone.
type contextFile struct {
	Current  string                   `json:"current,omitempty"`
	Contexts map[string]serverContext `json:"contexts"`
}

// serverContext is one server.
type serverContext struct {
	Host   string `json:"host"`
	APIKey string `json:"api_key,omitempty"`
	TLSCA  string `json:"tls_ca,omitempty"` // PEM
}

func (f contextFile) current() string {
	if f.Current == "" {
		return defaultContext
	}
	return f.Current
}

func (f contextFile) find(name string) (serverContext, error) {
	if name == defaultContext {
		return serverContext{}, nil
	}
	c, ok := f.Contexts[name]
	if !ok {
		return c, fmt.Errorf("no context is named %q: \"hyperfleet context ls\" lists them", name)
	}
	return c, nil
}

// names lists the contexts, the default one first.
func (f contextFile) names() []string {
	return append([]string{defaultContext}, slices.Sorted(maps.Keys(f.Contexts))...)
}

// address is where the context's daemon is.
func (c serverContext) address() string {
	if c.Host == "" {
		return hyperfleet.DefaultHost
	}
	return c.Host
}

// contextPath is the user's file of contexts.
func (g *globals) contextPath() (string, error) {
	dir := g.Getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := g.Getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", errors.New("there is no place for contexts: set HOME or XDG_CONFIG_HOME")
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "hyperfleet", "contexts.json"), nil
}

// loadContexts reads a file of contexts, unless others can read it too.
func loadContexts(path string) (contextFile, error) {
	var file contextFile
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return file, fmt.Errorf("read contexts: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return file, fmt.Errorf("read contexts: %w", err)
	case !info.Mode().IsRegular():
		return file, fmt.Errorf("read contexts: %s is no regular file", path)
	case info.Mode().Perm()&0o077 != 0:
		return file, fmt.Errorf("read contexts: others can open %s, which holds keys: chmod 600 it, and revoke the keys if they may have been seen", path)
	case info.Size() > maxContextFile:
		return file, fmt.Errorf("read contexts: %s is larger than %d bytes", path, maxContextFile)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxContextFile))
	if err != nil {
		return file, fmt.Errorf("read contexts: %w", err)
	}
	// What json says of a wrong file may quote a key.
	if json.Unmarshal(raw, &file) != nil {
		return contextFile{}, fmt.Errorf("read contexts: %s is not JSON as \"hyperfleet context\" writes it", path)
	}
	return file, nil
}

// updateContexts changes the file of contexts, one process at a time.
func (g *globals) updateContexts(change func(*contextFile) error) (err error) {
	path, err := g.contextPath()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make a folder for contexts: %w", err)
	}
	lock, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("lock contexts: %w", err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock contexts: %w", err)
	}
	file, err := loadContexts(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if file.Contexts == nil {
		file.Contexts = map[string]serverContext{}
	}
	if err := change(&file); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	if err := replaceFile(path, append(raw, '\n')); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	return nil
}

// replaceFile puts raw into a file of mode 0600, wholly or not at all.
func replaceFile(path string, raw []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".contexts-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.Write(raw)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
