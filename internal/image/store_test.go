package image

import (
	"os"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

func openStore(t *testing.T, change func(*Options)) *Store {
	t.Helper()
	return openStoreIn(t, t.TempDir(), change)
}

func openStoreIn(t *testing.T, dir string, change func(*Options)) *Store {
	t.Helper()
	opts := Options{Dir: dir, RetryPause: time.Millisecond, StallTimeout: 5 * time.Second}
	if change != nil {
		change(&opts)
	}
	s, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestResolve(t *testing.T) {
	reg := imagetest.Registry(t)
	img := imagetest.Image(t, v1.Config{Cmd: []string{"/bin/sh"}},
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("bin"), imagetest.File("bin/sh", "#!"))),
		imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("etc/x", "y"))))
	ref := reg.Push(t, "team/app:1", img)
	s := openStore(t, nil)
	var phases []string
	lease, err := s.Resolve(t.Context(), machine.ImageRequest{Ref: ref, Progress: func(p machine.ImageProgress) {
		if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
			phases = append(phases, p.Phase)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if got := lease.Image; got.Ref != ref || got.Digest != imagetest.Digest(t, img) || !slices.Equal(got.Config.Cmd, []string{"/bin/sh"}) {
		t.Errorf("got %+v", got)
	}
	if info, err := os.Stat(lease.BasePath); err != nil || info.Mode() != 0o400 {
		t.Errorf("base: %v, %v", info, err)
	}
	if phases[0] != "resolve" || phases[len(phases)-1] != "done" || !slices.Contains(phases, "convert") {
		t.Errorf("phases were %q", phases)
	}
}
