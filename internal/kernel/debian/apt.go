package debian

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// waitDelay is how long a cancelled apt may take to let go of its output.
const waitDelay = 5 * time.Second

// Apt runs the host's apt. The zero value is ready to use.
type Apt struct {
	// Run runs a program in dir and returns its standard output; nil runs it
	// on the host. An error of exec.ErrNotFound says that there is no apt.
	Run func(ctx context.Context, dir, program string, args ...string) ([]byte, error)
}

// Package is what apt's index says of one version of a package.
type Package struct {
	Name    string
	Version string
	SHA256  string   // of its file, in hex
	Depends []string // names; of alternatives the first
}

// String returns name and version as apt writes them.
func (p Package) String() string { return p.Name + "=" + p.Version }

// packageName is Debian Policy 5.6.1, and keeps names from being options.
var packageName = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`)

// Show returns apt's candidate of a package. A package that the index does not
// hold is errdefs.NotFound; the index may be empty or old: see Update.
func (a *Apt) Show(ctx context.Context, name string) (Package, error) {
	if !packageName.MatchString(name) {
		return Package{}, errdefs.New(errdefs.Invalid, "PACKAGE_INVALID", "invalid package name %q", name)
	}
	out, err := a.run(ctx, "", "apt-cache", "show", "--no-all-versions", name)
	if errors.Is(err, exec.ErrNotFound) {
		return Package{}, noApt(err)
	}
	p := parseStanza(out)
	if err != nil || p.Name != name || p.Version == "" || len(p.SHA256) != sha256.Size*2 {
		return Package{}, errdefs.Wrap(err, errdefs.NotFound, "PACKAGE_NOT_FOUND", "apt knows no package %s", name)
	}
	return p, nil
}

// Update fetches apt's index, for which one must be root.
func (a *Apt) Update(ctx context.Context) error {
	_, err := a.run(ctx, "", "apt-get", "update", "-q")
	if errors.Is(err, exec.ErrNotFound) {
		return noApt(err)
	}
	if err != nil {
		return errdefs.Wrap(err, errdefs.Unavailable, "APT_FAILED", "apt-get update did not work: run it as root")
	}
	return nil
}

// Find is Show, with an Update in between when the package is not in the index.
func (a *Apt) Find(ctx context.Context, name string) (Package, error) {
	p, err := a.Show(ctx, name)
	if !errdefs.Is(err, errdefs.NotFound) {
		return p, err
	}
	if err := a.Update(ctx); err != nil {
		return Package{}, err
	}
	return a.Show(ctx, name)
}

// Download gets the package's file into dir, which must hold no other package,
// checks it against the index and returns its path.
func (a *Apt) Download(ctx context.Context, p Package, dir string) (string, error) {
	if _, err := a.run(ctx, dir, "apt-get", "download", "-q", p.String()); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", noApt(err)
		}
		return "", errdefs.Wrap(err, errdefs.Unavailable, "APT_FAILED", "apt-get could not download %s", p)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("download %s: found %d packages in its folder", p, len(files))
	}
	if err := check(files[0], p.SHA256); err != nil {
		return "", errdefs.Wrap(err, errdefs.Unavailable, "PACKAGE_CORRUPT", "the downloaded file of %s is not what apt's index says", p)
	}
	return files[0], nil
}

func check(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("sha256 is %s, not %s", got, want)
	}
	return nil
}

func noApt(cause error) error {
	return errdefs.Wrap(cause, errdefs.Unsupported, "APT_NOT_FOUND", "apt is not on this host")
}

func (a *Apt) run(ctx context.Context, dir, program string, args ...string) ([]byte, error) {
	if a.Run != nil {
		return a.Run(ctx, dir, program, args...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	cmd.WaitDelay = waitDelay
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return out, fmt.Errorf("%s: %w: %s", program, err, lastLine(exit.Stderr))
	}
	return out, err
}

func lastLine(b []byte) string {
	b = bytes.TrimSpace(b)
	return string(b[bytes.LastIndexByte(b, '\n')+1:])
}

// parseStanza reads the first stanza of a control file (deb822(5)).
func parseStanza(b []byte) Package {
	var p Package
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\n")
		if line == "" {
			break
		}
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "SHA256":
			p.SHA256 = value
		case "Depends":
			p.Depends = dependencies(value)
		}
	}
	return p
}

// dependencies keeps the names of a Depends field: "a (>= 1), b:any | c" is a, b.
func dependencies(field string) []string {
	var names []string
	for dep := range strings.SplitSeq(field, ",") {
		dep = strings.TrimSpace(dep)
		if end := strings.IndexAny(dep, " (:|["); end >= 0 {
			dep = dep[:end]
		}
		if packageName.MatchString(dep) {
			names = append(names, dep)
		}
	}
	return names
}
