package metrics

import (
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Buckets, in seconds.
var (
	// requestBuckets reach from a read of the database to a start that waits
	// for a pull.
	requestBuckets = []float64{.001, .0025, .01, .025, .1, .25, 1, 2.5, 10, 30, 120}
	// stepBuckets are for operations: a record takes a millisecond, a boot
	// under emulation seconds, a pull minutes.
	stepBuckets = []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
	// storeBuckets are for transactions, most of which wait for one fsync.
	storeBuckets = []float64{.0001, .00025, .001, .0025, .01, .025, .1, .5, 2.5}
)

// maxCodes bounds the error codes that have a series of their own: a guest
// chooses the code of a boot that it reports as failed.
const maxCodes = 64

// scrapeTimeout bounds one answer.
const scrapeTimeout = 10 * time.Second

// Metrics has one registry with everything in it.
type Metrics struct {
	registry *prometheus.Registry

	requests       *prometheus.CounterVec
	requestSeconds *prometheus.HistogramVec

	operationSeconds *prometheus.HistogramVec
	stepSeconds      *prometheus.HistogramVec
	startFailures    *prometheus.CounterVec
	vmmExits         *prometheus.CounterVec
	codes            names

	storeSeconds *prometheus.HistogramVec
}

// New returns a Metrics that has counted nothing. version is the build's.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		codes:    names{limit: maxCodes},
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hyperfleet_http_requests_total",
			Help: "Requests answered, by the route's pattern; status 0 is a connection that was cut before the answer.",
		}, []string{"method", "route", "status"}),
		requestSeconds: histogram("hyperfleet_http_request_duration_seconds",
			"Time from a request's headers to the end of its answer; of a streamed command to its begin.", requestBuckets, "method", "route"),
		operationSeconds: histogram("hyperfleet_operation_duration_seconds",
			"Time of a whole operation on a machine.", stepBuckets, "operation", "outcome"),
		stepSeconds: histogram("hyperfleet_operation_step_duration_seconds",
			"Time of one step of an operation; those of a start are its phases.", stepBuckets, "operation", "step"),
		startFailures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hyperfleet_start_failures_total", Help: "Starts that failed, by error code.",
		}, []string{"code"}),
		vmmExits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hyperfleet_vmm_exits_total", Help: "VMMs that ended without being asked to, by what came of it.",
		}, []string{"reason"}),
		storeSeconds: histogram("hyperfleet_store_operation_duration_seconds",
			"Time of one transaction of the database.", storeBuckets, "operation"),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hyperfleet_build_info", Help: "Always 1; the label says which build this is.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.requests, m.requestSeconds, m.operationSeconds, m.stepSeconds, m.startFailures, m.vmmExits, m.storeSeconds, info,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// Handler answers GET /metrics. What a source could not tell is left out of the
// answer, and logged.
func (m *Metrics) Handler(log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: errorLog{log}, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: scrapeTimeout,
	}))
	return mux
}

// errorLog is what promhttp logs to.
type errorLog struct{ log *slog.Logger }

func (e errorLog) Println(v ...any) { e.log.Warn("metrics are incomplete", slog.Any("err", v)) }

// methods are those that have a series of their own.
var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

// RequestEnded implements httpapi.Observer.
func (m *Metrics) RequestEnded(method, route string, status int, took time.Duration) {
	if !slices.Contains(methods, method) {
		method = other
	}
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	m.requestSeconds.WithLabelValues(method, route).Observe(took.Seconds())
}

// StepEnded implements machine.Observer.
func (m *Metrics) StepEnded(operation, step string, took time.Duration) {
	m.stepSeconds.WithLabelValues(operation, step).Observe(took.Seconds())
}

// OperationEnded implements machine.Observer.
func (m *Metrics) OperationEnded(operation, code string, took time.Duration) {
	outcome := "done"
	if code != "" {
		outcome = "failed"
		if operation == "start" {
			m.startFailures.WithLabelValues(m.codes.bounded(code)).Inc()
		}
	}
	m.operationSeconds.WithLabelValues(operation, outcome).Observe(took.Seconds())
}

// VMMEnded implements machine.Observer.
func (m *Metrics) VMMEnded(reason string) { m.vmmExits.WithLabelValues(reason).Inc() }

// other is the label of everything beyond a bound.
const other = "other"

// names are the first so many that were seen.
type names struct {
	limit int

	mu   sync.Mutex
	seen map[string]bool
}

// bounded returns the name, or other when too many were seen before.
func (n *names) bounded(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.seen[name] {
		return name
	}
	if len(n.seen) >= n.limit {
		return other
	}
	if n.seen == nil {
		n.seen = make(map[string]bool)
	}
	n.seen[name] = true
	return name
}
