package ext4

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// benchFiles are the sizes of a root filesystem's files: many small, few large,
// 256 MiB in all.
func benchFiles() (content []byte, sizes []int) {
	rng := rand.New(rand.NewPCG(1, 1))
	content = make([]byte, 8<<20)
	for i := range content {
		content[i] = byte(rng.Uint32() | 1)
	}
	for total := 0; total < 256<<20; {
		n := 1 + rng.IntN(16<<10)
		switch rng.IntN(40) {
		case 0, 1, 2:
			n = rng.IntN(256 << 10)
		case 3:
			n = rng.IntN(4 << 20)
		}
		sizes = append(sizes, n)
		total += n
	}
	return content, sizes
}

// BenchmarkStore compares streaming files into an image with streaming the same
// bytes into one plain file, turn by turn.
func BenchmarkStore(b *testing.B) {
	content, sizes := benchFiles()
	dir := b.TempDir()
	var store, finish, plain time.Duration
	buf := make([]byte, 256<<10)
	for b.Loop() {
		f, err := os.Create(filepath.Join(dir, "plain"))
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		for _, n := range sizes {
			if _, err := io.CopyBuffer(struct{ io.Writer }{f}, io.LimitReader(bytes.NewReader(content), int64(n)), buf); err != nil {
				b.Fatal(err)
			}
		}
		plain += time.Since(start)
		f.Close()
		os.Remove(f.Name())

		if f, err = os.Create(filepath.Join(dir, "image")); err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		w, err := NewWriter(f, Options{})
		if err != nil {
			b.Fatal(err)
		}
		root := NewDir(0o755, start)
		var sub *Node
		for i, n := range sizes {
			d, err := w.Store(bytes.NewReader(content), int64(n))
			if err != nil {
				b.Fatal(err)
			}
			if i%50 == 0 {
				sub = NewDir(0o755, start)
				root.Children[fmt.Sprint("dir", i)] = sub
			}
			sub.Children[fmt.Sprint("file-of-some-name-", i)] = &Node{Mode: TypeRegular | 0o644, ModTime: start, Data: d}
		}
		store += time.Since(start)
		start = time.Now()
		if _, err := w.Finish(root); err != nil {
			b.Fatal(err)
		}
		finish += time.Since(start)
		f.Close()
		os.Remove(f.Name())
	}
	b.ReportMetric(float64(len(sizes)), "files")
	b.ReportMetric(store.Seconds()/float64(b.N)*1e3, "store-ms")
	b.ReportMetric(finish.Seconds()/float64(b.N)*1e3, "finish-ms")
	b.ReportMetric(plain.Seconds()/float64(b.N)*1e3, "plain-ms")
	b.ReportMetric(float64(store+finish)/float64(plain), "times-plain")
}

func BenchmarkCreate(b *testing.B) {
	for _, size := range []int64{1 << 30, 10 << 30, 100 << 30, 1 << 40} {
		b.Run(fmt.Sprintf("%dGiB", size>>30), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "disk")
			for b.Loop() {
				if err := (Disks{}).Create(context.Background(), path, size); err != nil {
					b.Fatal(err)
				}
				os.Remove(path)
			}
		})
	}
}

// BenchmarkFinishLargeDirectory measures a directory of 50,000 names.
func BenchmarkFinishLargeDirectory(b *testing.B) {
	for b.Loop() {
		w, path := newTestWriter(b, Options{})
		root := NewDir(0o755, time.Time{})
		for i := range 50_000 {
			root.Children[fmt.Sprintf("file-of-some-name-%08d", i)] = &Node{Mode: TypeRegular | 0o644}
		}
		mustFinish(b, w, root)
		os.Remove(path)
	}
}
