//go:build vm

package bench

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// BenchmarkAuthenticatedGet compares how many authenticated GET /machines/{id}
// are answered in a second with how many GET /health, which need no key. Both
// run over the same kept connections; short turns of the two alternate.
func BenchmarkAuthenticatedGet(b *testing.B) {
	h, image := hosttest.NewWithImage(b)
	m := h.Create("get", image)
	load := newLoad(h.URL(), h.Key())
	defer load.close()
	const turn = 400 * time.Millisecond
	load.run(b, "/health", turn) // warms both ends up
	load.run(b, "/machines/"+m.ID, turn)
	for b.Loop() {
		var health, get int64
		for range 10 {
			health += load.run(b, "/health", turn)
			get += load.run(b, "/machines/"+m.ID, turn)
		}
		per := func(n int64) float64 { return float64(n) / (10 * turn.Seconds()) }
		note(b, "GET /machines/{id} with a key: %.0f a second; GET /health: %.0f a second", per(get), per(health))
		b.ReportMetric(float64(get)/float64(health), "ratio")
	}
}

// load asks one server over as many kept connections as it has workers.
type load struct {
	base, key string
	client    *http.Client
}

const loadWorkers = 8

func newLoad(base, key string) *load {
	return &load{base: base, key: key, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: loadWorkers}}}
}

func (l *load) close() { l.client.CloseIdleConnections() }

// run asks for path as often as it can for the time, and counts the answers.
func (l *load) run(b *testing.B, path string, d time.Duration) int64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), d)
	defer cancel()
	var n atomic.Int64
	var wg sync.WaitGroup
	for range loadWorkers {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := l.get(b.Context(), path); err != nil {
					b.Errorf("GET %s: %v", path, err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return n.Load()
}

func (l *load) get(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+l.key)
	resp, err := l.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// BenchmarkManyMachines times a list of 100, a create and a get with 10, 1,000
// and 100,000 machines in the store. Each ratio is to 10 machines, that of the
// list to 1,000, as 10 are no 100. It also tells what memory the daemon takes
// with each.
func BenchmarkManyMachines(b *testing.B) {
	h, image := hosttest.NewWithImage(b, "HYPERFLEET_MAX_MACHINES=0")
	m := h.Create("m", image)
	note(b, "daemon's memory with one machine: %.1f MiB", memoryOf(b, h))
	path := filepath.Join(h.State, "hyperfleet.db")
	b.Cleanup(func() { // deleting them one by one takes minutes
		h.StopDaemon()
		empty(b, path)
	})
	for b.Loop() {
		least := map[string]time.Duration{}
		have := 1
		for _, n := range []int{10, 1000, 100_000} {
			h.StopDaemon()
			fill(b, path, have, n)
			have = n
			start := time.Now()
			h.StartDaemon()
			note(b, "%d machines: daemon up after %v, %.1f MiB", n, time.Since(start), memoryOf(b, h))
			var made []hyperfleet.Machine
			for _, op := range []struct {
				name string
				do   func() error
			}{
				{"list", func() error {
					_, err := h.ListMachines(b.Context(), hyperfleet.ListOptions{Limit: 100})
					return err
				}},
				{"get", func() error { _, err := h.Machine(b.Context(), m.ID); return err }},
				{"create", func() error {
					c, err := h.CreateMachine(b.Context(), hyperfleet.CreateMachineRequest{Name: "c", VCPUCount: 1, MemSizeMiB: 128, Image: image})
					made = append(made, c)
					return err
				}},
			} {
				took := timed(b, 200, op.do)
				if _, ok := least[op.name]; !ok && (n > 100 || op.name != "list") {
					least[op.name] = took
				}
				note(b, "%d machines: %s in %v", n, op.name, took)
				if floor := least[op.name]; n > 10 && floor > 0 {
					b.ReportMetric(float64(took)/float64(floor), fmt.Sprintf("%s-%d", op.name, n))
				}
			}
			for _, c := range made {
				deleteMachine(b, h, c)
			}
		}
	}
}

func timed(b *testing.B, rounds int, do func() error) time.Duration {
	b.Helper()
	var all []time.Duration
	for range rounds {
		start := time.Now()
		if err := do(); err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(start))
	}
	return median(all)
}

// fill copies the first machine of a database until there are n stopped ones.
// No daemon may have the database open.
func fill(b *testing.B, path string, have, n int) {
	b.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	_, err = db.ExecContext(b.Context(), `
		INSERT INTO machines (id, host_id, name, spec, state, slot, created_at, updated_at)
		WITH RECURSIVE number (i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM number WHERE i + 1 < ?2)
		SELECT substr(first.id, 1, length(first.id) - 6) || printf('%06d', i), host_id, name, spec, 'stopped',
			i + 1, created_at, updated_at
		FROM number, (SELECT * FROM machines ORDER BY seq LIMIT 1) AS first`, have, n)
	if err != nil {
		b.Fatal(err)
	}
}

// empty removes all machines but the first from a database.
func empty(b *testing.B, path string) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	// The benchmark's own context has ended when it cleans up.
	if _, err := db.ExecContext(context.Background(), `DELETE FROM machines WHERE seq > (SELECT min(seq) FROM machines)`); err != nil {
		b.Error(err)
	}
}

// BenchmarkIdleMemory tells what memory the daemon takes when nothing happens,
// and how much of it each machine that runs and does nothing adds.
func BenchmarkIdleMemory(b *testing.B) {
	h, image := hosttest.NewWithImage(b)
	h.StopDaemon()
	h.StartDaemon()
	const machines = 10
	for b.Loop() {
		empty := memoryOf(b, h)
		for i := range machines {
			h.Start(fmt.Sprint("idle", i), image)
		}
		h.StopDaemon() // what the starts took is over
		h.StartDaemon()
		hosttest.Await(b, time.Minute, "every machine is adopted", func() error {
			list, err := h.ListMachines(b.Context(), hyperfleet.ListOptions{Status: hyperfleet.StatusRunning})
			if err == nil && len(list) < machines {
				err = fmt.Errorf("%d run", len(list))
			}
			return err
		})
		full := memoryOf(b, h)
		note(b, "daemon's memory: %.1f MiB idle, %.1f MiB with %d idle machines", empty, full, machines)
		b.ReportMetric(empty, "idle-MiB")
		b.ReportMetric((full-empty)*1024/machines, "KiB/machine")
	}
}

// memoryOf is the resident memory of the daemon now, in MiB.
func memoryOf(b *testing.B, h *hosttest.Host) float64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.DaemonPID()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("no VmRSS in /proc/PID/status")
	return 0
}
