// Command demo shows the whole of Hyperfleet with one command: it boots a guest
// from an OCI image, runs a command in it, and prints its output and a time
// table. The image is alpine from Docker Hub or, where that cannot be reached,
// one made of Debian's busybox-static. It drives the hyperfleet binary as a
// person would.
package main

import (
	"archive/tar"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/busybox"
)

const (
	hub         = "https://registry-1.docker.io/v2/"
	hubPatience = 5 * time.Second
	hubImage    = "alpine"
	localImage  = "localhost/busybox:demo"
)

func main() {
	bin := flag.String("bin", "bin/hyperfleet", "the hyperfleet binary")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *bin)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string) error {
	if err := hyperfleet(ctx, bin, "setup"); err != nil {
		return err
	}
	image := hubImage
	if err := reachable(ctx); err != nil {
		fmt.Printf("\nDocker Hub cannot be reached (%v):\ntaking an image made of Debian's busybox-static.\n", err)
		if err := importBusybox(ctx, bin); err != nil {
			return err
		}
		image = localImage
	}
	return hyperfleet(ctx, bin, "run", "--rm", "--time", image, "--", "sh", "-c",
		`echo "Hello from a microVM: $(uname -sr), $(nproc) vCPU, $(free -m | awk '/^Mem/ {print $2}') MiB, up $(cut -d. -f1 /proc/uptime) s"; id; df -h /`)
}

// reachable asks Docker Hub for what a registry answers: come in, or log in.
func reachable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hubPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, hub, nil)
	if err != nil {
		return err
	}
	client := http.Client{Timeout: hubPatience}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusUnauthorized {
		return fmt.Errorf("it answers %s", resp.Status)
	}
	return nil
}

func importBusybox(ctx context.Context, bin string) error {
	dir, err := os.MkdirTemp("", "hyperfleet-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	layout, archive := filepath.Join(dir, "layout"), filepath.Join(dir, "busybox.tar")
	if err := busybox.WriteLayout(ctx, layout, busybox.Options{}); err != nil {
		return err
	}
	if err := pack(archive, layout); err != nil {
		return fmt.Errorf("pack the image: %w", err)
	}
	return hyperfleet(ctx, bin, "image", "import", archive, localImage)
}

func pack(archive, dir string) error {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return w.Close()
}

// hyperfleet runs one command of the product, after showing it.
func hyperfleet(ctx context.Context, bin string, args ...string) error {
	fmt.Printf("\n$ %s %s\n", bin, quoted(args))
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it removes its machine
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", bin, args[0], err)
	}
	return nil
}

func quoted(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		q[i] = a
		if strings.ContainsAny(a, " \"'$;|&()<>*?") {
			q[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(q, " ")
}
