//go:build vm

package bench

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

const rounds = 9

// BenchmarkCreateToFirstExec compares creating a machine and running its first
// command with a bare QEMU that boots the same kernel, and the same initramfs
// with a trivial init, to its first line. The two alternate.
func BenchmarkCreateToFirstExec(b *testing.B) {
	h, image := hosttest.NewWithImage(b)
	files := floorBoot(b)
	warm := h.Start("warm", image)
	tsc := tscOf(h.Output(warm, "cat", "/proc/cmdline"))
	deleteMachine(b, h, warm)
	for b.Loop() {
		var ours, floor []time.Duration
		for range rounds {
			f := startFloor(b, files, tsc)
			floor = append(floor, f.up)
			f.stop()
			start := time.Now()
			m := h.Start("bench", image)
			h.Output(m, "true")
			ours = append(ours, time.Since(start))
			deleteMachine(b, h, m)
		}
		report(b, "create to first exec", median(ours), "bare QEMU, trivial init", median(floor))
	}
}

// BenchmarkExecTrue compares the execution of `true` with a raw echo on the
// same kind of port plus a fork, exec and wait of the same program in the guest.
func BenchmarkExecTrue(b *testing.B) {
	h, image := hosttest.NewWithImage(b)
	m := h.Start("exec", image)
	tsc := tscOf(h.Output(m, "cat", "/proc/cmdline"))
	f := startFloor(b, floorBoot(b), tsc, "-drive", "if=none,id=base,readonly=on,format=raw,file="+basePath(b, h),
		"-device", "virtio-blk-device,drive=base")
	conn := f.port(b)
	for b.Loop() {
		var echo, fork, ours []time.Duration
		for range 300 {
			echo = append(echo, must(ask(conn, 'e'))(b))
			fork = append(fork, must(ask(conn, 'f'))(b))
			start := time.Now()
			h.Output(m, "true")
			ours = append(ours, time.Since(start))
		}
		// A fork request is an echo with a fork, exec and wait in between, which
		// is the floor itself.
		note(b, "raw echo alone: %v", median(echo))
		report(b, "exec of true", median(ours), "raw echo + fork and exec", median(fork))
	}
}

// BenchmarkCreateFromCachedImage compares an image of 5 MB with one of 500 MB.
func BenchmarkCreateFromCachedImage(b *testing.B) {
	h, small := hosttest.NewWithImage(b)
	big := importBig(b, h, 500<<20)
	for b.Loop() {
		var create, start [2][]time.Duration
		for range rounds {
			for i, image := range []string{small, big} {
				t0 := time.Now()
				m := h.Create("bench", image)
				t1 := time.Now()
				if _, err := h.StartMachine(b.Context(), m.ID); err != nil {
					b.Fatal(err)
				}
				create[i] = append(create[i], t1.Sub(t0))
				start[i] = append(start[i], time.Since(t0))
				deleteMachine(b, h, m)
			}
		}
		note(b, "create alone: %v of 500 MB, %v of 5 MB", median(create[1]), median(create[0]))
		report(b, "create and start of 500 MB", median(start[1]), "of 5 MB", median(start[0]))
	}
}

// importBig imports a root file system with the given bytes of random data, so
// that nothing of it compresses or is a hole.
func importBig(b *testing.B, h *hosttest.Host, size int64) string {
	b.Helper()
	r, w := io.Pipe()
	go func() { w.CloseWithError(writeBig(w, size)) }()
	defer r.Close()
	const name = "localhost/big:test"
	if _, err := h.ImportImage(b.Context(), name, r); err != nil {
		b.Fatal(err)
	}
	return name
}

func writeBig(w io.Writer, size int64) error {
	t := tar.NewWriter(w)
	chunk := make([]byte, 1<<20)
	for i := range size >> 20 {
		if _, err := rand.Read(chunk); err != nil {
			return err
		}
		name := "data/" + string(rune('a'+i%26)) + "/" + string(rune('a'+i/26))
		if err := t.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(chunk))}); err != nil {
			return err
		}
		if _, err := io.Copy(t, bytes.NewReader(chunk)); err != nil {
			return err
		}
	}
	return t.Close()
}

// basePath finds the converted image in the host's cache.
func basePath(b *testing.B, h *hosttest.Host) string {
	b.Helper()
	for _, pattern := range []string{"images/*.ext4", "images/*/*.ext4"} {
		if found, _ := filepath.Glob(filepath.Join(h.State, pattern)); len(found) == 1 {
			return found[0]
		}
	}
	b.Fatal("not exactly one base in the cache")
	return ""
}

func deleteMachine(b *testing.B, h *hosttest.Host, m hyperfleet.Machine) {
	b.Helper()
	if err := h.DeleteMachine(b.Context(), m.ID); err != nil {
		b.Fatal(err)
	}
}

func must(d time.Duration, err error) func(b *testing.B) time.Duration {
	return func(b *testing.B) time.Duration {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

// report prints one ratio as the benchmark's metric.
func report(b *testing.B, what string, took time.Duration, floor string, least time.Duration) {
	b.Helper()
	note(b, "%s: median %v; %s: median %v", what, took, floor, least)
	b.ReportMetric(float64(took)/float64(least), "ratio")
}
