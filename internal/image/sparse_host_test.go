//go:build host

package image

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// TestHostSparse imports what GNU tar makes of sparse files, in each of its
// formats, and finds the files that it was given, which are still sparse.
func TestHostSparse(t *testing.T) {
	const size = 16 << 20
	root := t.TempDir()
	for name, at := range map[string][]int64{
		"empty":      nil,
		"end":        {size - 4096},
		"beginning":  {0},
		"both":       {0, size - 1},
		"fragments":  {4096, 1 << 20, 3 << 20, 5<<20 + 12345, 9 << 20, 11 << 20, 12 << 20, 14 << 20, 15 << 20}, // more than a header holds
		"usr/in/dir": {7 << 20},
	} {
		writeSparse(t, filepath.Join(root, name), size, at)
	}
	want := imagetest.Inventory(t, root)
	archives := t.TempDir()
	for name, args := range map[string][]string{
		"gnu":     {"--format=gnu"},
		"pax 0.0": {"--format=posix", "--sparse-version=0.0"},
		"pax 0.1": {"--format=posix", "--sparse-version=0.1"},
		"pax 1.0": {"--format=posix", "--sparse-version=1.0"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(archives, name+".tar")
			imagetest.Run(t, "tar", append(args, "--sparse", "--xattrs", "-C", root, "-cf", path, ".")...)
			if info, err := os.Stat(path); err != nil || info.Size() > 1<<20 {
				t.Fatalf("tar has filled the holes: %v, %v", info, err)
			}
			s := openStore(t, nil)
			image, err := s.ImportPath(t.Context(), path, ImportRequest{Name: "sparse:1"})
			if err != nil {
				t.Fatal(err)
			}
			if image.SizeBytes > 1<<20 {
				t.Errorf("base takes %d bytes", image.SizeBytes)
			}
			imagetest.Run(t, "e2fsck", "-fn", image.BasePath)
			if diff := cmp.Diff(want, imagetest.Inventory(t, imagetest.Mount(t, image.BasePath))); diff != "" {
				t.Errorf("base differs (-original +ours):\n%s", diff)
			}
			archive, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			requireSameAsUmoci(t, layoutOf(t, archive), "latest")
		})
	}
}

// writeSparse makes a file of size bytes with some data at the given offsets,
// or at its end if they are close to it, and holes elsewhere. Its times have
// whole seconds, which all formats keep.
func writeSparse(t *testing.T, path string, size int64, at []int64) {
	t.Helper()
	for _, dir := range []string{filepath.Dir(path), filepath.Dir(filepath.Dir(path))} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		defer setTime(t, dir)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer setTime(t, path)
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{byte(len(at))})
	for _, offset := range at {
		data := make([]byte, min(5000, size-offset))
		if _, err := random.Read(data); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(data, offset); err != nil {
			t.Fatal(err)
		}
	}
}

func setTime(t *testing.T, path string) {
	t.Helper()
	when := imagetest.Epoch.Truncate(time.Second)
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
}
