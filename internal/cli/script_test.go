package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/auth/authtest"
	"github.com/hyperfleet/hyperfleet/internal/daemon"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/httpapi"
	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"hyperfleet": func() {
			os.Exit(NewApp(Backend{
				Serve: func(_ context.Context, o ServeRequest, log io.Writer) error {
					fmt.Fprintln(log, o.EnvFile, o.Set)
					return errors.New("no daemon in a script")
				},
				Configuration:   daemon.Configuration,
				ImportReference: importNothing,
				Doctor: func(context.Context) ([]DoctorResult, error) {
					return []DoctorResult{{"kvm", "warn", "none", "buy some"}, {"qemu", os.Getenv("QEMU_IS"), "asked", ""}}, nil
				},
				Embed: func(context.Context, io.Writer) (string, func() error, error) {
					return "", nil, errors.New("no engine in a script")
				},
				Setup: func(_ context.Context, o SetupRequest, step func(name, state, detail string)) (string, error) {
					step("find a kernel", "done", o.Kernel)
					return "/boot/vmlinux", nil
				},
			}).Main(context.Background(), os.Args[1:]))
		},
	})
}

// importNothing reports on files whose names say how they are; package daemon
// has the real import.
func importNothing(_ context.Context, o ImportRequest) (ImportReport, error) {
	switch o.File {
	case "good.db":
		return ImportReport{Done: true, Rows: []ImportRow{
			{Kind: "machine", ID: "a1", Name: "web", Outcome: "imported", Notes: []string{"its addresses are chosen anew", "second note"}},
		}}, nil
	case "bad.db":
		return ImportReport{Done: o.SkipInvalid, Rows: []ImportRow{{Kind: "key", ID: "k1", Outcome: "invalid"}}}, nil
	}
	return ImportReport{}, fmt.Errorf("open reference database: %w", os.ErrNotExist)
}

// TestScripts runs the command line against a daemon in this process, with a
// real Manager and a fake world below it.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			socket, err := serveFakes(t, env)
			env.Setenv("HYPERFLEET_HOST", "unix://"+socket)
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": checkCode},
	})
}

// checkCode runs a command that must end with a given code.
func checkCode(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	if err != nil {
		got = err.Error()
	}
	if got != args[0] && got != "exit status "+args[0] {
		ts.Fatalf("ended with %q, want %s", got, args[0])
	}
}

func serveFakes(t *testing.T, env *testscript.Env) (string, error) {
	dir, err := os.MkdirTemp("/tmp", "hf-") // short: it holds a socket
	if err != nil {
		return "", err
	}
	host := machinetest.NewHost(t)
	cfg := host.Daemon(t).Config()
	manager, err := machine.NewManager(cfg)
	if err != nil {
		return "", err
	}
	if err := manager.Recover(t.Context()); err != nil {
		return "", err
	}
	keys, err := auth.Open(t.Context(), authtest.NewStore(), auth.Options{})
	if err != nil {
		return "", err
	}
	api, err := httpapi.New(httpapi.Config{Machines: manager, Keys: keys, Images: &cache{Images: cfg.Images}, Runtime: "fake", SpoolDir: dir})
	if err != nil {
		return "", err
	}
	socket := filepath.Join(dir, "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: api.TrustedHandler()}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	env.Defer(func() {
		api.Close()
		server.Close()
		<-served
		if err := keys.Close(); err != nil {
			t.Error(err)
		}
		if err := manager.Close(context.Background()); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return socket, nil
}

// cache remembers what was pulled or imported.
type cache struct {
	machine.Images
	list []machine.Image
}

func (c *cache) Resolve(ctx context.Context, req machine.ImageRequest) (*machine.ImageLease, error) {
	lease, err := c.Images.Resolve(ctx, req)
	if err == nil {
		lease.Config.Entrypoint, lease.Config.Cmd = []string{"echo"}, []string{"the", "image's", "own"}
		c.list = append(c.list, lease.Image)
	}
	return lease, err
}

func (c *cache) Lookup(_ context.Context, ref string) (httpapi.CachedImage, error) {
	for _, img := range c.list {
		if img.Ref == ref || img.Digest == ref {
			return httpapi.CachedImage{Image: img}, nil
		}
	}
	return httpapi.CachedImage{}, errdefs.New(errdefs.NotFound, "IMAGE_NOT_FOUND", "image %s not found", ref)
}

func (c *cache) List(context.Context) ([]httpapi.CachedImage, error) {
	out := make([]httpapi.CachedImage, len(c.list))
	for i, img := range c.list {
		out[i].Image, out[i].Refs = img, []string{img.Ref}
	}
	return out, nil
}

func (c *cache) Import(_ context.Context, name string, archive io.Reader) (machine.Image, error) {
	n, err := io.Copy(io.Discard, archive)
	c.list = append(c.list, machine.Image{Ref: name, Digest: "sha256:0123456789abcdef", SizeBytes: n})
	return c.list[len(c.list)-1], err
}

func (c *cache) Delete(ctx context.Context, ref string) error {
	found, err := c.Lookup(ctx, ref)
	c.list = slices.DeleteFunc(c.list, func(img machine.Image) bool { return img.Digest == found.Digest })
	return err
}

func (c *cache) Prune(ctx context.Context, unusedFor time.Duration) ([]httpapi.CachedImage, int64, error) {
	if unusedFor > 0 {
		return nil, 0, nil
	}
	gone, err := c.List(ctx)
	var freed int64
	for _, img := range gone {
		freed += img.SizeBytes
	}
	c.list = nil
	return gone, freed, err
}
