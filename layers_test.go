package hyperfleet_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/hyperfleet/hyperfleet"

// layer says what one package of ours may import beside the standard library:
// packages of ours by their path in the module, others by module path. A
// trailing /... allows everything below.
type layer struct {
	pkg    string
	allow  []string
	reason string
}

// layers is the whole layering of the module; a package that is not listed
// here fails the test, since a new package needs a noun and a reason.
// .golangci.yml enforces the coarse half of it while one types.
var layers = []layer{
	{"", nil, "users embed the client: the standard library only"},
	{"cmd/hyperfleet", []string{"internal/daemon", "internal/cli", "internal/config", "internal/buildinfo"}, "main only joins the CLI to the daemon"},
	{"cmd/hyperfleet-init", []string{"internal/initd", "internal/buildinfo"}, "main only calls initd"},

	{"internal/errdefs", nil, "a leaf that every layer may use"},
	{"internal/buildinfo", nil, "a leaf that every layer may use"},
	{"internal/systemd", []string{"golang.org/x/sys"}, "a leaf: what a service manager wants to hear"},
	{"internal/certificate", nil, "a leaf: files and the standard library's X.509"},
	{"internal/guestproto", nil, "linked into the guest: small, and without surprises"},

	{"internal/idempotency", []string{"internal/errdefs"}, "a domain of its own: requests that come twice"},
	{"internal/idempotency/idempotencytest", []string{"internal/idempotency", "internal/errdefs"}, "fakes know the contract only"},
	{"internal/machine", []string{"internal/errdefs"}, "the domain is tested without any technology"},
	{"internal/machine/machinetest", []string{"internal/machine", "internal/errdefs", "github.com/google/go-cmp"}, "fakes know the contract only"},

	{"internal/auth", []string{"internal/errdefs"}, "the domain of keys and scopes is tested without any technology"},
	{"internal/auth/authtest", []string{"internal/auth", "internal/errdefs", "github.com/google/go-cmp"}, "fakes know the contract only"},

	{"internal/store", []string{"internal/auth", "internal/idempotency", "internal/machine", "internal/errdefs", "github.com/pressly/goose/v3", "modernc.org/sqlite"}, "the only importer of the SQL driver"},
	{"internal/ext4", []string{"internal/errdefs", "golang.org/x/sys"}, "a format library"},
	{"internal/metrics", []string{"internal/machine", "github.com/prometheus/client_golang"}, "the only importer of the Prometheus client; knows no adapter"},
	{"internal/image", []string{"internal/machine", "internal/errdefs", "internal/ext4", "github.com/google/go-containerregistry", "github.com/klauspost/compress", "golang.org/x/sync", "golang.org/x/sys"}, "the only importer of the registry client; ext4 is the format that it writes (docs/adr/0002)"},
	{"internal/kernel", []string{"internal/machine", "internal/errdefs", "github.com/klauspost/compress", "github.com/pierrec/lz4/v4", "github.com/therootcompany/xz", "golang.org/x/sync", "golang.org/x/sys"}, "an adapter"},
	{"internal/busybox", []string{"internal/errdefs", "internal/kernel/..."}, "makes the demo's image"},
	{"internal/vmm/qemu", []string{"internal/machine", "internal/errdefs", "internal/vmm/...", "golang.org/x/sys", "golang.org/x/sync"}, "a driver knows neither images nor networks"},
	{"internal/vmm/process", []string{"golang.org/x/sys"}, "a leaf of the drivers"},
	{"internal/vmm/console", []string{"golang.org/x/sys"}, "a leaf of the drivers"},
	{"internal/network", []string{"internal/errdefs", "github.com/google/nftables", "golang.org/x/sys"}, "the only importer of netlink and nftables"},
	{"internal/guest", []string{"internal/machine", "internal/errdefs", "internal/guestproto"}, "the host's end of the session"},
	{"internal/initd", []string{"internal/guestproto", "golang.org/x/sys"}, "runs in the guest: small, and knows nothing of the host"},

	{"internal/swaggerui", []string{"github.com/swaggest/swgui"}, "a page and its files"},
	{"internal/httpapi", []string{"", "internal/swaggerui", "internal/auth", "internal/idempotency", "internal/machine", "internal/errdefs", "internal/buildinfo", "github.com/danielgtaylor/huma/v2"}, "knows the domain, no adapter"},
	{"internal/doctor", []string{"golang.org/x/sys"}, "asks the host, and knows no part of ours"},
	{"internal/config", []string{"internal/errdefs", "github.com/caarlos0/env/v11", "golang.org/x/sys"}, "the only reader of the daemon's environment"},
	{"internal/cli", []string{"", "internal/buildinfo", "github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/vbauerster/mpb/v8", "golang.org/x/term", "golang.org/x/sys"}, "lives on the public client, which keeps the client honest"},
	{"internal/daemon", []string{"", "internal/...", "golang.org/x/sync", "golang.org/x/sys"}, "the composition root: the only one that knows two adapters"},
}

// testOnly are packages that only tests and benchmarks import.
var testOnly = []string{"test/...", "examples/...", "internal/image/imagetest", "internal/kernel/kerneltest", "internal/vmm/vmmtest", "internal/vmm/vmmtest/...", "internal/guest/guesttest", "internal/store/reference/referencetest"}

// never are imports that no rule may allow by a pattern.
var never = map[string][]string{
	"internal/daemon": {"internal/initd", "internal/cli"},
	// Package net is a tenth of init's size, and slows its start.
	"internal/initd":      {"net", "net/http", "crypto/tls", "log/slog"},
	"internal/guestproto": {"net"},
	"internal/machine": {
		"net/http", "database/sql", "os/exec",
	},
	"internal/auth": {"net/http", "database/sql"},
}

func TestLayers(t *testing.T) {
	for pkg, imports := range packageImports(t) {
		if matches(testOnly, pkg) {
			continue
		}
		rule, ok := layerOf(pkg)
		if !ok {
			t.Errorf("%s is in no layer: list it in layers_test.go, with what it may import and why", pkg)
			continue
		}
		for _, imp := range imports {
			if slices.Contains(never[pkg], imp) {
				t.Errorf("%s imports %s, which it must never: %s", pkg, imp, rule.reason)
			}
			if standard(imp) || allowed(rule.allow, imp) || below(rule.pkg, imp) {
				continue
			}
			t.Errorf("%s imports %s: %s", pkg, imp, rule.reason)
		}
	}
}

// TestOnePackageComment keeps exactly one comment for each package.
func TestOnePackageComment(t *testing.T) {
	for _, p := range goList(t) {
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// TestPackageNames keeps names that say nothing out of the tree.
func TestPackageNames(t *testing.T) {
	empty := []string{"util", "utils", "common", "helpers", "shared", "types", "models", "consts", "base", "misc", "core", "pkg"}
	for pkg := range packageImports(t) {
		if slices.Contains(empty, path.Base(pkg)) {
			t.Errorf("%s: name the package by what it is", pkg)
		}
	}
}

func layerOf(pkg string) (layer, bool) {
	i := slices.IndexFunc(layers, func(l layer) bool { return l.pkg == pkg })
	if i >= 0 {
		return layers[i], true
	}
	// A sub-package belongs to its parent's layer.
	if parent := path.Dir(pkg); strings.HasPrefix(parent, "internal/") {
		return layerOf(parent)
	}
	return layer{}, false
}

// below reports whether imp is a sub-package of the layer: only the layer
// itself uses those.
func below(layer, imp string) bool {
	return strings.HasPrefix(layer, "internal/") && strings.HasPrefix(imp, layer+"/") && !matches(testOnly, imp)
}

func allowed(allow []string, imp string) bool {
	for _, a := range allow {
		if strings.Contains(a, ".") && !strings.HasSuffix(a, "/...") && (imp == a || strings.HasPrefix(imp, a+"/")) {
			return true // another module: all of its packages
		}
	}
	return matches(allow, imp)
}

func matches(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, below := strings.CutSuffix(p, "/...")
		return pkg == p || below && strings.HasPrefix(pkg, prefix+"/")
	})
}

func standard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".") && first != "internal" && first != "cmd" && first != "test" && imp != ""
}

type listed struct {
	ImportPath string
	Doc        string
	Imports    []string
}

func goList(t *testing.T) []listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Doc,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	dec := json.NewDecoder(strings.NewReader(string(out)))
	for {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// packageImports maps our packages, by path in the module, to their imports.
func packageImports(t *testing.T) map[string][]string {
	t.Helper()
	m := map[string][]string{}
	for _, p := range goList(t) {
		imports := make([]string, len(p.Imports))
		for i, imp := range p.Imports {
			imports[i] = ours(imp)
		}
		m[ours(p.ImportPath)] = imports
	}
	return m
}

func ours(imp string) string {
	if imp == module {
		return ""
	}
	return strings.TrimPrefix(imp, module+"/")
}
