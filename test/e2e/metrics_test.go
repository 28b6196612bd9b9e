//go:build vm

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// scraper reads metrics as Prometheus does.
type scraper struct {
	client *http.Client
	all    map[string]*dto.MetricFamily
}

func newScraper(socket string) *scraper {
	return &scraper{client: &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (s *scraper) scrape(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://metrics/metrics", nil)
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	s.all, err = parser.TextToMetricFamilies(resp.Body)
	return err
}

// value is a counter's or gauge's value, or a histogram's count, of the series
// with the labels, name after value; 0 when there is none.
func (s *scraper) value(name string, labels ...string) float64 {
	for _, m := range s.all[name].GetMetric() {
		of := map[string]string{}
		for _, l := range m.GetLabel() {
			of[l.GetName()] = l.GetValue()
		}
		match := true
		for i := 0; i+1 < len(labels); i += 2 {
			match = match && of[labels[i]] == labels[i+1]
		}
		if match {
			return m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return 0
}

// The metrics say what really happened to a machine.
func TestMetricsOfRealMachines(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "m.sock")
	h, image := hosttest.NewWithImage(t, "HYPERFLEET_METRICS_LISTEN=unix://"+socket)
	s := newScraper(socket)
	require := func(when string, want float64, name string, labels ...string) {
		t.Helper()
		hosttest.Await(t, 10*time.Second, when, func() error {
			if err := s.scrape(t.Context()); err != nil {
				return err
			}
			if got := s.value(name, labels...); got != want {
				return fmt.Errorf("%s%q is %v, want %v", name, labels, got, want)
			}
			return nil
		})
	}
	require("import", 1, "hyperfleet_image_imports_total")
	require("import", 1, "hyperfleet_image_cache_images")
	m := h.Start("measured", image)
	for _, step := range []string{"begin", "image", "disk", "kernel", "prepare", "boot", "process", "guest", "publish"} {
		require("start", 1, "hyperfleet_operation_step_duration_seconds", "operation", "start", "step", step)
	}
	require("start", 1, "hyperfleet_machines", "state", "running")
	require("start", 1, "hyperfleet_agent_sessions")
	require("start", 1, "hyperfleet_image_cache_hits_total")
	require("start", 1, "hyperfleet_http_requests_total", "method", "POST", "route", "/machines/{id}/start", "status", "200")

	detach, started, ended := make(chan struct{}), &firstWrite{done: make(chan struct{})}, make(chan error, 1)
	go func() {
		_, err := h.ExecStream(t.Context(), m.ID, hyperfleet.ExecRequest{Command: []string{"sh", "-c", "echo up; sleep 600"}}, hyperfleet.ExecIO{Stdout: started, Detach: detach})
		ended <- err
	}()
	<-started.done
	require("a command runs", 1, "hyperfleet_execs_running")
	close(detach)
	if err := <-ended; !errors.Is(err, hyperfleet.ErrDetached) {
		t.Error(err)
	}
	if err := syscall.Kill(*m.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	require("the VMM was killed", 1, "hyperfleet_vmm_exits_total", "reason", "failed")
	require("the VMM was killed", 1, "hyperfleet_machines", "state", "failed")
	require("the VMM was killed", 0, "hyperfleet_agent_sessions")
	require("the VMM was killed", 0, "hyperfleet_execs_running")

	bad := h.Create("bad", "localhost/nosuch:1")
	if _, err := h.StartMachine(t.Context(), bad.ID); err == nil {
		t.Error("a machine of no image starts")
	}
	require("a failed start", 1, "hyperfleet_start_failures_total", "code", "REGISTRY_UNAVAILABLE")
}
