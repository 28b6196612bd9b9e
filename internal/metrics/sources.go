package metrics

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Sources are asked at each scrape. All are needed; they are called from any
// goroutine.
type Sources struct {
	Machines   func(ctx context.Context) (map[machine.State]int, error)
	Images     func() ImageCache
	Sessions   func() Sessions
	Execs      func() int            // commands that run and have a session or a caller here
	StoreBytes func() (int64, error) // of the database with its log
}

// ImageCache is the state of the cache of images, and what it has counted.
type ImageCache struct {
	Images    int
	Bytes     int64 // on disk, unfinished downloads included
	MaxBytes  int64
	Hits      int64 // images asked for that were here
	Misses    int64 // that had to be pulled, or could not be
	Pulls     int64 // that ended well
	Failures  int64 // pulls that did not
	Imports   int64
	Evictions int64
}

// Sessions are the agent sessions of running machines.
type Sessions struct {
	Open    int   // machines whose agent is connected
	Redials int64 // connections that were made anew
}

// Register adds what the sources tell. It is called once.
func (m *Metrics) Register(s Sources) error { return m.registry.Register(scrape{s}) }

// scrape is the collector of Sources.
type scrape struct{ from Sources }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	machines = describe("hyperfleet_machines", "Machines that there are, by state.", "state")
	execs    = describe("hyperfleet_execs_running", "Commands that run in guests and that somebody waits for, or may come back to.")
	sessions = describe("hyperfleet_agent_sessions", "Machines whose agent is connected.")
	redials  = describe("hyperfleet_agent_redials_total", "Connections to agents that were made anew after a break.")

	storeBytes = describe("hyperfleet_store_bytes", "Size of the database with its log.")

	imageCount     = describe("hyperfleet_image_cache_images", "Images in the cache.")
	imageBytes     = describe("hyperfleet_image_cache_bytes", "Disk space of the cache of images, unfinished downloads included.")
	imageMaxBytes  = describe("hyperfleet_image_cache_limit_bytes", "Disk space that the cache of images may take.")
	imageHits      = describe("hyperfleet_image_cache_hits_total", "Images asked for that were in the cache.")
	imageMisses    = describe("hyperfleet_image_cache_misses_total", "Images asked for that were not in the cache.")
	imagePulls     = describe("hyperfleet_image_pulls_total", "Pulls that ended, by result.", "result")
	imageImports   = describe("hyperfleet_image_imports_total", "Archives that became images.")
	imageEvictions = describe("hyperfleet_image_cache_evictions_total", "Images that were removed to make room.")
)

// Describe implements prometheus.Collector.
func (scrape) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		machines, execs, sessions, redials, storeBytes, imageCount, imageBytes, imageMaxBytes,
		imageHits, imageMisses, imagePulls, imageImports, imageEvictions,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c scrape) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	if counts, err := c.from.Machines(ctx); err != nil {
		ch <- prometheus.NewInvalidMetric(machines, err)
	} else {
		for _, state := range machine.States() { // those that no machine is in too
			gauge(machines, float64(counts[state]), string(state))
		}
	}
	if bytes, err := c.from.StoreBytes(); err != nil {
		ch <- prometheus.NewInvalidMetric(storeBytes, err)
	} else {
		gauge(storeBytes, float64(bytes))
	}
	gauge(execs, float64(c.from.Execs()))
	s := c.from.Sessions()
	gauge(sessions, float64(s.Open))
	counter(redials, s.Redials)

	i := c.from.Images()
	gauge(imageCount, float64(i.Images))
	gauge(imageBytes, float64(i.Bytes))
	gauge(imageMaxBytes, float64(i.MaxBytes))
	counter(imageHits, i.Hits)
	counter(imageMisses, i.Misses)
	counter(imagePulls, i.Pulls, "done")
	counter(imagePulls, i.Failures, "failed")
	counter(imageImports, i.Imports)
	counter(imageEvictions, i.Evictions)
}
