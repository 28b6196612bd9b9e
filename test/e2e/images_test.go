//go:build vm

package e2e

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/busybox"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

type fault = func(w http.ResponseWriter, r *http.Request) bool

// TestRegistryErrors pulls, and starts machines, from registries that refuse,
// lie and die.
func TestRegistryErrors(t *testing.T) {
	h := hosttest.New(t)
	reg := imagetest.Registry(t)
	layer := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("etc/motd", strings.Repeat("hello\n", 1000))))
	good := imagetest.Image(t, v1.Config{}, layer)
	ref := reg.Push(t, "team/app:1", good)
	broken := reg.Push(t, "team/broken:1", imagetest.Image(t, v1.Config{}, imagetest.Tar(t, imagetest.File("f", strings.Repeat("x", 4096)))[:3000]))
	lying := reg.Push(t, "team/lying:1", withOtherDiffID(t, good))
	dead := closedPort(t) + "/team/app:1"
	login := &hyperfleet.RegistryAuth{Username: "ann", Password: "wrong-secret"}
	blob := func(answer fault) fault {
		return func(w http.ResponseWriter, r *http.Request) bool {
			return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && answer(w, r)
		}
	}
	for _, c := range []struct {
		name, ref string
		auth      *hyperfleet.RegistryAuth
		private   bool
		fault     fault
		want      failure
	}{
		{name: "unknown repository", ref: reg.Host + "/team/none:1", want: failure{hyperfleet.ErrNotFound, "IMAGE_NOT_FOUND", "/team/none"}},
		{name: "unknown tag", ref: reg.Host + "/team/app:none", want: failure{hyperfleet.ErrNotFound, "IMAGE_NOT_FOUND", "/team/app:none"}},
		{name: "not imported", ref: "localhost/none:1", want: failure{hyperfleet.ErrUnavailable, "REGISTRY_UNAVAILABLE", "localhost/none"}},
		{name: "no login", ref: ref, private: true, want: failure{hyperfleet.ErrUnauthorized, "REGISTRY_UNAUTHORIZED", "needs a login"}},
		{name: "wrong login", ref: ref, private: true, auth: login, want: failure{hyperfleet.ErrUnauthorized, "REGISTRY_UNAUTHORIZED", "does not accept the login"}},
		{name: "dead", ref: dead, want: failure{hyperfleet.ErrUnavailable, "REGISTRY_UNAVAILABLE", "cannot be reached"}},
		{name: "answers 500", ref: ref, fault: status(http.StatusInternalServerError), want: failure{hyperfleet.ErrUnavailable, "REGISTRY_UNAVAILABLE", "status 500"}},
		{name: "limits pulls", ref: ref, fault: status(http.StatusTooManyRequests), want: failure{hyperfleet.ErrUnavailable, "REGISTRY_RATE_LIMITED", "limits"}},
		{name: "hangs up", ref: ref, fault: blob(hangUp), want: failure{hyperfleet.ErrUnavailable, "REGISTRY_UNAVAILABLE", "cannot be reached"}},
		{name: "sends other bytes", ref: ref, fault: blob(otherBytes(len(layer))), want: failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", "digest"}},
		{name: "sends another manifest", ref: reg.Host + "/team/app@" + imagetest.Digest(t, good), fault: otherManifest, want: failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", "digest"}},
		{name: "has a cut layer", ref: broken, want: failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", "layer"}},
		{name: "has a layer of another diff id", ref: lying, want: failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg.Fault(c.fault)
			defer reg.Fault(nil)
			if c.private {
				reg.RequireLogin("ann", "secret")
				defer reg.RequireLogin("", "")
			}
			_, err := h.PullImage(t.Context(), hyperfleet.PullRequest{Image: c.ref, RegistryAuth: c.auth}, nil)
			c.want.check(t, err)
			startFails(t, h, c.ref, c.want, func(r *hyperfleet.CreateMachineRequest) { r.RegistryAuth = c.auth })
			if left := filesUnder(t, filepath.Join(h.State, "images"), "lock"); len(left) > 0 {
				t.Errorf("left in the cache: %q", left)
			}
			if secretIn(t, h.State, login.Password) {
				t.Error("a password is in the state folder")
			}
		})
	}
	if _, err := h.PullImage(t.Context(), hyperfleet.PullRequest{Image: ref}, nil); err != nil {
		t.Errorf("in the end a good pull: %v", err)
	}
}

// What one caller pulled with a login is not served to who has none, also when
// the registry cannot be asked any more.
func TestPrivateImage(t *testing.T) {
	h := hosttest.New(t)
	reg := imagetest.Registry(t)
	img := imagetest.Image(t, v1.Config{}, imagetest.Tar(t, imagetest.File("secret", "x")))
	ref := reg.Push(t, "team/private:1", img)
	digest := imagetest.Digest(t, img)
	reg.RequireLogin("private-user", "secret")
	auth := &hyperfleet.RegistryAuth{Username: "private-user", Password: "secret"}
	if _, err := h.PullImage(t.Context(), hyperfleet.PullRequest{Image: ref, RegistryAuth: auth}, nil); err != nil {
		t.Fatal(err)
	}
	denied := failure{hyperfleet.ErrUnauthorized, "REGISTRY_UNAUTHORIZED", "/team/private"}
	for name, other := range map[string]*hyperfleet.RegistryAuth{"none": nil, "wrong": {Username: "bob", Password: "secret"}} {
		for _, r := range []string{ref, reg.Host + "/team/private@" + digest} {
			t.Run(name, func(t *testing.T) {
				_, err := h.PullImage(t.Context(), hyperfleet.PullRequest{Image: r, RegistryAuth: other}, nil)
				denied.check(t, err)
				startFails(t, h, r, denied, func(q *hyperfleet.CreateMachineRequest) { q.RegistryAuth = other })
			})
		}
	}
	t.Run("registry is away", func(t *testing.T) {
		reg.Close()
		for _, r := range []string{ref, reg.Host + "/team/private@" + digest} {
			startFails(t, h, r, failure{hyperfleet.ErrUnavailable, "REGISTRY_UNAVAILABLE", "cannot be reached"})
		}
	})
	if secretIn(t, h.State, "private-user") {
		t.Error("a login is in the state folder")
	}
}

// TestImportErrors imports what is no image.
func TestImportErrors(t *testing.T) {
	h := hosttest.New(t)
	archive := busyboxArchive(t)
	swapped := bytes.Clone(archive)
	swapped[len(swapped)/2] ^= 0xff // within the one layer
	for _, c := range []struct {
		name    string
		content []byte
		want    failure
	}{
		{"nothing", nil, failure{hyperfleet.ErrInvalid, "VALIDATION_ERROR", "body is required"}},
		{"text", []byte(strings.Repeat("no archive\n", 1000)), failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", ""}},
		{"cut in half", archive[:len(archive)/2], failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", ""}},
		{"cut in a header", archive[:700], failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", ""}},
		{"cut gzip", imagetest.Gzip(t, archive)[:100_000], failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", ""}},
		{"flipped byte", swapped, failure{hyperfleet.ErrInvalid, "IMAGE_CORRUPT", "layer"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := h.ImportImage(t.Context(), "localhost/bad:1", bytes.NewReader(c.content))
			c.want.check(t, err)
			if left := filesUnder(t, filepath.Join(h.State, "images"), "lock"); len(left) > 0 {
				t.Errorf("left in the cache: %q", left)
			}
		})
	}
	if list, err := h.ListImages(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("images: %v, %v", list, err)
	}
}

func status(code int) fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "{}", code)
		return true
	}
}

// hangUp promises content and goes away.
func hangUp(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Content-Length", "100000")
	panic(http.ErrAbortHandler)
}

func otherBytes(size int) fault {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write(bytes.Repeat([]byte{'x'}, size))
		return true
	}
}

func otherManifest(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
		return false
	}
	w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
	_, _ = w.Write([]byte(`{"schemaVersion":2,"layers":[]}`))
	return true
}

func withOtherDiffID(t *testing.T, img v1.Image) v1.Image {
	t.Helper()
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.RootFS.DiffIDs[0].Hex = strings.Repeat("ab", 32)
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// closedPort is an address of the loopback where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// secretIn reports whether a file below dir holds the word.
func secretIn(t *testing.T, dir, word string) bool {
	t.Helper()
	for _, name := range filesUnder(t, dir) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil && bytes.Contains(b, []byte(word)) {
			return true
		}
	}
	return false
}

// busyboxArchive is an OCI layout as a tar archive.
func busyboxArchive(t *testing.T) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if err := busybox.WriteLayout(t.Context(), dir, busybox.Options{}); err != nil {
		t.Fatal(err)
	}
	archive, err := io.ReadAll(tarOf(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return archive
}
