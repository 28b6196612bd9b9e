package image

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/image/registry"
)

// partialAge is how long an unfinished download is kept for another attempt.
const partialAge = 24 * time.Hour

// ingest holds layers while they arrive. A layer's file is named by repository
// and digest: a caller who may not read a repository gets nothing of what
// others pulled from it.
type ingest struct {
	dir, tmp string
	disk     disk

	mu   sync.Mutex
	busy map[string]bool // by file name
}

// take reserves the file of a layer. Where another pull has it, the layer gets
// a file of its own that is not kept.
func (g *ingest) take(repo string, d manifest.Digest) (*os.File, string, error) {
	name := hashName(repo+"@"+string(d)) + ".partial"
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.busy[name] {
		f, err := g.disk.create("make layer file", g.tmp, "layer-*")
		if err != nil {
			return nil, "", err
		}
		return f, f.Name(), nil
	}
	path := filepath.Join(g.dir, name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("open layer file: %w", err)
	}
	g.busy[name] = true
	return f, path, nil
}

// give ends the use of a file that take gave out, and keeps or removes it.
func (g *ingest) give(path string, keep bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.busy, filepath.Base(path))
	if keep && filepath.Dir(path) == g.dir {
		return nil
	}
	return g.disk.remove("remove layer file", path)
}

// sweep removes the files that nobody uses and that are older than limit.
func (g *ingest) sweep(limit time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return fmt.Errorf("list layer files: %w", err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || g.busy[e.Name()] || info.ModTime().After(limit) {
			continue
		}
		if err := g.disk.remove("sweep", filepath.Join(g.dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// used returns the disk space of all files, in bytes.
func (g *ingest) used() int64 {
	entries, err := os.ReadDir(g.dir)
	if err != nil {
		return 0
	}
	var sum int64
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			sum += allocated(info)
		}
	}
	return sum
}

// arrival is a layer that is read while it arrives. One goroutine downloads,
// one reads.
type arrival struct {
	f      *os.File
	size   int64
	cancel context.CancelFunc
	done   chan struct{} // closed when the download has ended
	report func(current int64)

	mu   sync.Mutex
	more *sync.Cond
	have int64
	end  bool
	err  error

	read int64 // the reader's
}

// receive continues the download of d into f, which holds the beginning.
func receive(ctx context.Context, f *os.File, have int64, repo *registry.Repository, d manifest.Descriptor, report func(int64)) *arrival {
	ctx, cancel := context.WithCancel(ctx)
	a := &arrival{f: f, size: d.Size, have: have, cancel: cancel, done: make(chan struct{}), report: report}
	a.more = sync.NewCond(&a.mu)
	go func() {
		defer close(a.done)
		err := repo.Fetch(ctx, d, have, a)
		a.mu.Lock()
		a.end, a.err = true, err
		a.mu.Unlock()
		a.more.Broadcast()
	}()
	return a
}

// Write takes what the download brings.
func (a *arrival) Write(p []byte) (int, error) {
	n, err := a.f.WriteAt(p, a.have) // only this goroutine changes have
	a.mu.Lock()
	a.have += int64(n)
	have := a.have
	a.mu.Unlock()
	a.more.Signal()
	a.report(have)
	if err != nil {
		return n, fmt.Errorf("write layer file: %w", err)
	}
	return n, nil
}

// Read waits for bytes that have not arrived.
func (a *arrival) Read(p []byte) (int, error) {
	a.mu.Lock()
	for a.have <= a.read && !a.end {
		a.more.Wait()
	}
	have, err := a.have, a.err
	a.mu.Unlock()
	if have <= a.read {
		if err == nil {
			err = io.EOF
		}
		return 0, err
	}
	n, err := a.f.ReadAt(p[:min(int64(len(p)), have-a.read)], a.read)
	a.read += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Close ends the download and waits for it.
func (a *arrival) Close() error {
	a.cancel()
	<-a.done
	return a.f.Close()
}
