// Package metrics counts what the daemon does, for Prometheus.
//
// A Metrics is told of events by the packages that declare an Observer (machine,
// httpapi), measures calls of a store that it wraps, and asks its Sources for
// the rest at each scrape. It knows no adapter: package daemon joins them. This
// is the only importer of the Prometheus client.
//
// No label ever holds what a caller or a guest chose: routes are patterns,
// methods and error codes beyond a fixed number are "other". So the number of
// series is bounded. docs/operations.md lists every metric.
//
// A Metrics is safe for concurrent use.
package metrics
