// Package debiantest is an archive of made-up Debian packages, and an apt that
// serves it, for tests of what gets packages. Only tests import it. An Archive
// is safe for concurrent use once its fields are set.
package debiantest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
)

// Package is one made-up package.
type Package struct {
	Name    string
	Depends string // the field, as in a control file
	File    []byte // a .deb, as Deb makes it
}

// Archive is what the apt of its Apt method serves.
type Archive struct {
	Packages    []Package
	NeedsUpdate bool   // the index is empty before apt-get update
	Fail        string // the program and verb that fail: "apt-get download"
	Missing     bool   // there is no apt
	Corrupt     bool   // downloads are not what the index says

	mu      sync.Mutex
	updated bool
	calls   []string
}

// Apt returns the apt that serves the archive.
func (a *Archive) Apt() debian.Apt { return debian.Apt{Run: a.run} }

// Calls returns what was run so far, one line each.
func (a *Archive) Calls() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.calls)
}

func (a *Archive) run(_ context.Context, dir, program string, args ...string) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	line := program + " " + strings.Join(args, " ")
	a.calls = append(a.calls, line)
	if a.Missing {
		return nil, fmt.Errorf("run %s: %w", program, exec.ErrNotFound)
	}
	if a.Fail != "" && strings.HasPrefix(line, a.Fail) {
		return nil, fmt.Errorf("%s: exit status 100", a.Fail)
	}
	switch program + " " + args[0] {
	case "apt-cache show":
		return a.show(args[len(args)-1])
	case "apt-get update":
		a.updated = true
		return nil, nil
	case "apt-get download":
		return nil, a.download(dir, args[len(args)-1])
	}
	return nil, fmt.Errorf("unexpected call: %s", line)
}

func (a *Archive) show(name string) ([]byte, error) {
	for _, p := range a.Packages {
		if p.Name == name && (a.updated || !a.NeedsUpdate) {
			return fmt.Appendf(nil, "Package: %s\nVersion: 1.0-1\nDepends: %s\nSHA256: %x\nDescription: made up\n more\n\nPackage: older\n",
				p.Name, p.Depends, sha256.Sum256(p.File)), nil
		}
	}
	return nil, fmt.Errorf("apt-cache: no package %s", name)
}

func (a *Archive) download(dir, spec string) error {
	for _, p := range a.Packages {
		if p.Name+"=1.0-1" != spec {
			continue
		}
		file := p.File
		if a.Corrupt {
			file = append(slices.Clone(file), 'x')
		}
		return os.WriteFile(filepath.Join(dir, p.Name+"_1.0-1_amd64.deb"), file, 0o644)
	}
	return fmt.Errorf("apt-get: no package %s", spec)
}

// Deb returns a package with the regular files, in the order of their names,
// and its data compressed by gzip.
func Deb(files map[string][]byte) ([]byte, error) {
	data, err := Tar(files)
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return Ar("debian-binary", []byte("2.0\n"), "control.tar.gz", []byte("odd"), "data.tar.gz", packed.Bytes()), nil
}

// Tar returns an archive of regular files, named as packages do ("./etc/x").
func Tar(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644, Size: int64(len(files[name]))}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(files[name]); err != nil {
			return nil, err
		}
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Ar returns an ar archive of members, given as names (string) and contents
// ([]byte) in turn.
func Ar(members ...any) []byte {
	b := []byte("!<arch>\n")
	for i := 0; i+1 < len(members); i += 2 {
		content, _ := members[i+1].([]byte)
		b = fmt.Appendf(b, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", members[i], 0, 0, 0, "100644", len(content))
		b = append(b, content...)
		if len(content)%2 == 1 {
			b = append(b, '\n')
		}
	}
	return b
}
