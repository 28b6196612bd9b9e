package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/hyperfleet/hyperfleet/internal/machine"
	"github.com/hyperfleet/hyperfleet/internal/machine/machinetest"
)

// used returns a Metrics that has been told of one of everything.
func used(t *testing.T, change ...func(*Sources)) *Metrics {
	t.Helper()
	m := New("v1")
	from := Sources{
		Machines: func(context.Context) (map[machine.State]int, error) {
			return map[machine.State]int{machine.Running: 3}, nil
		},
		Images: func() ImageCache {
			return ImageCache{Images: 2, Bytes: 100, MaxBytes: 1000, Hits: 5, Misses: 4, Pulls: 3, Failures: 1, Imports: 7, Evictions: 6}
		},
		Sessions:   func() Sessions { return Sessions{Open: 3, Redials: 8} },
		Execs:      func() int { return 9 },
		StoreBytes: func() (int64, error) { return 4096, nil },
	}
	for _, f := range change {
		f(&from)
	}
	if err := m.Register(from); err != nil {
		t.Fatal(err)
	}
	m.RequestEnded("GET", "/machines/{id}", 200, time.Second)
	m.StepEnded("start", "boot", 2*time.Second)
	m.OperationEnded("start", "", 3*time.Second)
	m.OperationEnded("start", "GUEST_TIMEOUT", 3*time.Second)
	m.OperationEnded("stop", "RUNTIME_ERROR", time.Second)
	m.VMMEnded(machine.VMMFailed)
	s := m.Store(machinetest.NewHost(t).Store)
	if err := s.CreateMachine(t.Context(), &machine.Machine{ID: "m"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UnfinishedOperations(t.Context()); err != nil { // one that is not measured
		t.Error(err)
	}
	return m
}

// scraped is the text that m answers with, checked as Prometheus reads it.
func scraped(t *testing.T, m *Metrics) string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler(slog.New(slog.NewTextHandler(t.Output(), nil))).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	if rec.Code != 200 {
		t.Fatalf("status %d: %s", rec.Code, rec.Body)
	}
	text := rec.Body.String()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Fatalf("what Prometheus would say: %v\n%s", err, text)
	}
	return text
}

func TestScrape(t *testing.T) {
	m := used(t)
	text := scraped(t, m)
	for _, want := range []string{
		`hyperfleet_http_requests_total{method="GET",route="/machines/{id}",status="200"} 1`,
		`hyperfleet_http_request_duration_seconds_bucket{method="GET",route="/machines/{id}",le="1"} 1`,
		`hyperfleet_operation_step_duration_seconds_sum{operation="start",step="boot"} 2`,
		`hyperfleet_operation_duration_seconds_count{operation="start",outcome="done"} 1`,
		`hyperfleet_operation_duration_seconds_count{operation="start",outcome="failed"} 1`,
		`hyperfleet_start_failures_total{code="GUEST_TIMEOUT"} 1`,
		`hyperfleet_vmm_exits_total{reason="failed"} 1`,
		`hyperfleet_machines{state="running"} 3`,
		`hyperfleet_machines{state="failed"} 0`,
		`hyperfleet_image_cache_bytes 100`,
		`hyperfleet_image_cache_limit_bytes 1000`,
		`hyperfleet_image_cache_images 2`,
		`hyperfleet_image_cache_hits_total 5`,
		`hyperfleet_image_cache_misses_total 4`,
		`hyperfleet_image_pulls_total{result="done"} 3`,
		`hyperfleet_image_pulls_total{result="failed"} 1`,
		`hyperfleet_image_imports_total 7`,
		`hyperfleet_image_cache_evictions_total 6`,
		`hyperfleet_agent_sessions 3`,
		`hyperfleet_agent_redials_total 8`,
		`hyperfleet_execs_running 9`,
		`hyperfleet_store_bytes 4096`,
		`hyperfleet_store_operation_duration_seconds_count{operation="create_machine"} 1`,
		`hyperfleet_build_info{version="v1"} 1`,
		"\ngo_goroutines ", "\nprocess_resident_memory_bytes ",
	} {
		if !strings.Contains("\n"+text, "\n"+strings.TrimPrefix(want, "\n")) {
			t.Errorf("no line %q", want)
		}
	}
	if strings.Contains(text, `code="RUNTIME_ERROR"`) {
		t.Error("a stop that failed is counted among the starts")
	}
	problems, err := testutil.GatherAndLint(m.registry)
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// What callers and guests choose makes no series.
func TestSeriesAreBounded(t *testing.T) {
	m := used(t)
	before := strings.Count(scraped(t, m), "\n")
	for i := range 10_000 {
		m.RequestEnded(fmt.Sprint("METHOD", i), "", 405, time.Millisecond)
		m.OperationEnded("start", fmt.Sprint("CODE_", i), time.Millisecond)
	}
	text := scraped(t, m)
	if more := strings.Count(text, "\n") - before; more > maxCodes+20 {
		t.Errorf("%d more lines", more)
	}
	for _, want := range []string{
		`hyperfleet_http_requests_total{method="other",route="none",status="405"} 10000`,
		fmt.Sprintf(`hyperfleet_start_failures_total{code="other"} %d`, 10_000-maxCodes+1),
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("no line %q", want)
		}
	}
}

// A source that fails costs its own metric only.
func TestScrapeOfFailingSource(t *testing.T) {
	m := used(t, func(s *Sources) {
		s.Machines = func(context.Context) (map[machine.State]int, error) { return nil, errors.New("disk on fire") }
	})
	text := scraped(t, m)
	if strings.Contains(text, "hyperfleet_machines{") || !strings.Contains(text, "hyperfleet_image_cache_bytes 100") {
		t.Error(text)
	}
	if strings.Contains(text, "disk on fire") {
		t.Error("the error is told to who scrapes")
	}
}

func TestOnlyMetricsAreServed(t *testing.T) {
	h := New("v1").Handler(slog.New(slog.DiscardHandler))
	for request, want := range map[string]int{"GET /": 404, "POST /metrics": 405, "GET /metrics/x": 404} {
		method, path, _ := strings.Cut(request, " ")
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(method, path, nil))
		if rec.Code != want {
			t.Errorf("%s: %d, want %d", request, rec.Code, want)
		}
	}
}

// The list in the documentation has every metric of ours, with its kind and
// labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(hyperfleet_[a-z_]+)` \\| ([a-z]+) \\| ([a-z, `]*) \\|").FindAllStringSubmatch(string(doc), -1) {
		documented = append(documented, row[1]+" "+row[2]+" "+strings.ReplaceAll(row[3], "`", ""))
	}
	families, err := used(t).registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var registered []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "hyperfleet_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		registered = append(registered, fmt.Sprintf("%s %s %s", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", ")))
	}
	slices.Sort(documented)
	if !slices.Equal(documented, registered) {
		t.Errorf("docs/operations.md lists\n%s\nthe daemon has\n%s", strings.Join(documented, "\n"), strings.Join(registered, "\n"))
	}
}
