package image

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/image/manifest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const (
	nameOne = "docker.io/library/one:latest"
	nameTwo = "docker.io/library/two:latest"
)

// twoNames is a store with one image that has two names.
func twoNames(t *testing.T, change func(*Options)) (*Store, machine.Image) {
	t.Helper()
	s := openStore(t, change)
	data := imagetest.Tar(t, imagetest.File("a", "b"))
	var img machine.Image
	for _, name := range []string{"one", "two"} {
		var err error
		if img, err = s.Import(t.Context(), bytes.NewReader(data), ImportRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	return s, img
}

// What is shown of an image are the names that it has now.
func TestNamesShown(t *testing.T) {
	s, img := twoNames(t, nil)
	requireNames := func(ref string, refs ...string) {
		t.Helper()
		info, err := s.Inspect(t.Context(), img.Digest)
		if err != nil || info.Ref != ref || !slices.Equal(info.Refs, refs) {
			t.Errorf("shown as %s with the names %q, %v; want %s, %q", info.Ref, info.Refs, err, ref, refs)
		}
	}
	requireNames(nameTwo, nameOne, nameTwo)
	if err := s.Delete(t.Context(), "two"); err != nil {
		t.Fatal(err)
	}
	requireNames(nameOne, nameOne)
	// The last name is given to another image.
	other, err := s.Import(t.Context(), bytes.NewReader(imagetest.Tar(t, imagetest.File("c", "d"))), ImportRequest{Name: "one"})
	if err != nil {
		t.Fatal(err)
	}
	requireNames(img.Digest)
	if err := s.Delete(t.Context(), img.Digest); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Inspect(t.Context(), "one"); err != nil || info.Digest != other.Digest {
		t.Errorf("the name is %s, %v", info.Digest, err)
	}
}

func TestShortDigest(t *testing.T) {
	s, img := twoNames(t, nil)
	hex := strings.TrimPrefix(img.Digest, "sha256:")
	for _, short := range []string{hex[:12], "sha256:" + hex[:12], hex[:6]} {
		if info, err := s.Inspect(t.Context(), short); err != nil || info.Digest != img.Digest {
			t.Errorf("%s is %s, %v", short, info.Digest, err)
		}
	}
	for _, none := range []string{hex[:5], strings.Repeat("0", 12), "sha256:" + strings.Repeat("0", 12)} {
		_, err := s.Inspect(t.Context(), none)
		requireCode(t, err, "IMAGE_NOT_FOUND")
	}
	for _, short := range []string{hex[:12], "sha256:" + hex[:12]} {
		if err := resolve(t, s, short, nil); err != nil {
			t.Errorf("resolve %s: %v", short, err)
		}
		if got, err := s.Normalize(short); err != nil || got != img.Digest {
			t.Errorf("normal form of %s is %s, %v", short, got, err)
		}
	}
	// A name goes first.
	named, err := s.Import(t.Context(), bytes.NewReader(imagetest.Tar(t, imagetest.File("c", "d"))), ImportRequest{Name: hex[:12]})
	if err != nil {
		t.Fatal(err)
	}
	if info, err := s.Inspect(t.Context(), hex[:12]); err != nil || info.Digest != named.Digest {
		t.Errorf("a name that looks like a digest is %s, %v", info.Digest, err)
	}
	if err := s.Delete(t.Context(), hex[:13]); err != nil {
		t.Fatal(err)
	}
	if got := names(t, s); got != hex[:12] {
		t.Errorf("left are %q", got)
	}
}

func TestShortDigestIsAmbiguous(t *testing.T) {
	s, img := twoNames(t, nil)
	hex := strings.TrimPrefix(img.Digest, "sha256:")
	other := s.images[mustDigest(t, img.Digest)].record
	other.Digest = mustDigest(t, "sha256:"+hex[:20]+strings.Repeat("0", 44))
	s.images[other.Digest] = &entry{record: other}
	_, err := s.Inspect(t.Context(), hex[:12])
	requireCode(t, err, "IMAGE_AMBIGUOUS")
	if got, err := s.Normalize(hex[:12]); err != nil || got != "docker.io/library/"+hex[:12]+":latest" {
		t.Errorf("normal form is %s, %v", got, err)
	}
	delete(s.images, other.Digest)
}

func TestNormalize(t *testing.T) {
	s := openStore(t, nil)
	for ref, want := range map[string]string{
		" alpine ": "docker.io/library/alpine:latest", "ghcr.io/o/r:v1": "ghcr.io/o/r:v1", "localhost:5000/x": "localhost:5000/x:latest",
	} {
		if got, err := s.Normalize(ref); err != nil || got != want {
			t.Errorf("%q: %s, %v", ref, got, err)
		}
	}
	for _, bad := range []string{"", "Alpine", "al pine", "alpine:", "a@b", "../etc/passwd", strings.Repeat("a", 2000)} {
		_, err := s.Normalize(bad)
		requireCode(t, err, "INVALID_IMAGE_REF")
	}
}

// A machine that has not started yet needs its image by name.
func TestNameInUse(t *testing.T) {
	used := map[string]bool{nameOne: true}
	s, img := twoNames(t, func(o *Options) { o.InUse = func() map[string]bool { return used } })
	if gone, _, err := s.Prune(t.Context(), 0); err != nil || len(gone) != 0 {
		t.Errorf("pruned %v, %v", gone, err)
	}
	requireCode(t, s.Delete(t.Context(), img.Digest), "IMAGE_IN_USE")
	for _, name := range []string{"registry.test/a@" + img.Digest, img.Digest} {
		used = map[string]bool{name: true}
		requireCode(t, s.Delete(t.Context(), img.Digest), "IMAGE_IN_USE")
	}
	used = nil
	gone, freed, err := s.Prune(t.Context(), 0)
	if err != nil || len(gone) != 1 || !slices.Equal(gone[0].Refs, []string{nameOne, nameTwo}) || freed == 0 {
		t.Errorf("pruned %+v, %d bytes, %v", gone, freed, err)
	}
}

func TestPruneSparesTheRecent(t *testing.T) {
	s, img := twoNames(t, nil)
	if gone, _, err := s.Prune(t.Context(), time.Hour); err != nil || len(gone) != 0 {
		t.Errorf("pruned %v, %v", gone, err)
	}
	s.images[mustDigest(t, img.Digest)].lastUsed = time.Now().Add(-2 * time.Hour)
	if gone, _, err := s.Prune(t.Context(), time.Hour); err != nil || len(gone) != 1 {
		t.Errorf("pruned %v, %v", gone, err)
	}
}

func mustDigest(t *testing.T, s string) manifest.Digest {
	t.Helper()
	d, err := manifest.ParseDigest(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
