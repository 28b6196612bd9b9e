//go:build host || vm

package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// shared is a folder of the whole run.
var shared string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("/tmp", "hf-packaging-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	shared = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// build makes the packages for some architectures in a folder, and returns
// their paths.
func build(dir string, architectures ...string) ([]string, error) {
	cmd := exec.Command("scripts/package", architectures...)
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "DIST="+dir)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("build the packages: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// native is the package for this host, made once.
var native = sync.OnceValues(func() (string, error) {
	paths, err := build(filepath.Join(shared, "native"), runtime.GOARCH)
	if err != nil {
		return "", err
	}
	return paths[0], nil
})

// install puts the package inside and installs it.
func (d *debian) install() {
	d.t.Helper()
	path, err := native()
	if err != nil {
		d.t.Fatal(err)
	}
	d.put(path, "hyperfleet.deb")
	d.run("dpkg -i /root/hyperfleet.deb")
}
