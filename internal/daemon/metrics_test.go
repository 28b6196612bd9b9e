package daemon

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
)

// scrape asks the metrics' listener as Prometheus does.
func scrape(t *testing.T, network, address string) string {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://metrics/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", resp.Status, b, err)
	}
	return string(b)
}

func TestMetricsListener(t *testing.T) {
	cfg := settings(t)
	dir := filepath.Dir(cfg.RunDir)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	socket := filepath.Join(dir, "metrics.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	for _, c := range []struct{ listen, network, address string }{
		{address, "tcp", address}, {"unix://" + socket, "unix", socket},
	} {
		cfg.MetricsListen = c.listen
		d := newDaemon(t, cfg)
		if err := d.Listen(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() { served <- d.Serve(ctx) }()
		client := &hyperfleet.Client{Host: "unix://" + cfg.Socket()}
		if _, err := client.ListMachines(t.Context(), hyperfleet.ListOptions{}); err != nil {
			t.Error(err)
		}
		client.CloseIdleConnections()
		text := scrape(t, c.network, c.address)
		for _, want := range []string{
			`hyperfleet_http_requests_total{method="GET",route="/machines",status="200"} 1`,
			`hyperfleet_machines{state="running"} 0`, "hyperfleet_store_bytes ", `hyperfleet_store_operation_duration_seconds_count{operation="list_machines"} `,
			"hyperfleet_agent_sessions 0", "hyperfleet_execs_running 0", "hyperfleet_image_cache_limit_bytes 1.073741824e+10", "process_open_fds ",
		} {
			if !strings.Contains(text, "\n"+want) {
				t.Errorf("%s: no line %q", c.listen, want)
			}
		}
		if c.network == "unix" {
			if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o660 {
				t.Errorf("%v, %v", info, err)
			}
		}
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.MetricsListen = "unix://" + file
	d := newDaemon(t, cfg)
	if err := d.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("a file is in the way: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file that was in the way: %q, %v", b, err)
	}
}
