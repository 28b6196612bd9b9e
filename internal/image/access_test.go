package image

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

var login = &machine.RegistryAuth{Username: "u", Password: "p"}

func TestAccessPrivateImage(t *testing.T) {
	r := newRig(t, nil)
	digest := imagetest.Digest(t, r.img)
	r.reg.RequireLogin("u", "p")
	requireCode(t, r.resolve(t), "REGISTRY_UNAUTHORIZED")
	requireCode(t, resolve(t, r.store, r.ref, &machine.RegistryAuth{Username: "u", Password: "no"}), "REGISTRY_UNAUTHORIZED")
	lease, err := r.store.Resolve(t.Context(), machine.ImageRequest{Ref: r.ref, Auth: login})
	if err != nil {
		t.Fatal(err)
	}
	if len(lease.Config.Env) != 1 {
		t.Errorf("config is %+v", lease.Config)
	}
	lease.Release()
	// It is in the cache now, and still only for those whom the registry lets.
	requireCode(t, r.resolve(t), "REGISTRY_UNAUTHORIZED")
	requireCode(t, resolve(t, r.store, r.ref, &machine.RegistryAuth{Username: "x", Password: "p"}), "REGISTRY_UNAUTHORIZED")
	byDigest := strings.TrimSuffix(r.ref, ":1") + "@" + digest
	requireCode(t, resolve(t, r.store, byDigest, nil), "REGISTRY_UNAUTHORIZED")
	requireCode(t, resolve(t, r.store, digest, nil), "IMAGE_NOT_FOUND")
	r.reg.Requests()
	if err := resolve(t, r.store, r.ref, login); err != nil {
		t.Fatal(err)
	}
	for _, req := range r.reg.Requests() {
		if strings.Contains(req, "/blobs/") {
			t.Errorf("cached image was pulled again: %s", req)
		}
	}
	info, err := r.store.Inspect(t.Context(), r.ref)
	list, listErr := r.store.List(t.Context())
	if err != nil || listErr != nil || len(list) != 1 {
		t.Fatalf("inspect: %v; list: %v, %v", err, list, listErr)
	}
	for _, info := range append(list, info) {
		if info.Digest != digest || len(info.Config.Env) > 0 {
			t.Errorf("private image is told as %+v", info)
		}
	}
	r.reg.RequireLogin("u", "changed")
	requireCode(t, resolve(t, r.store, r.ref, login), "REGISTRY_UNAUTHORIZED")
	r.reg.Close()
	requireCode(t, resolve(t, r.store, r.ref, login), "REGISTRY_UNAVAILABLE")
}

// TestAccessThroughOwnRegistry does not believe a registry of the caller's own
// that says the caller may have what is private elsewhere.
func TestAccessThroughOwnRegistry(t *testing.T) {
	r := newRig(t, nil)
	r.reg.RequireLogin("u", "p")
	if err := resolve(t, r.store, r.ref, login); err != nil {
		t.Fatal(err)
	}
	evil := imagetest.Registry(t)
	ref := evil.Push(t, "mine:1", r.img) // knows the manifest, but
	evil.Fault(func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, r.path[strings.LastIndex(r.path, "/"):]) {
			w.WriteHeader(http.StatusNotFound) // has no layer
			return true
		}
		return false
	})
	requireCode(t, resolve(t, r.store, ref, nil), "IMAGE_NOT_FOUND")
	evil.Fault(nil)
	if err := resolve(t, r.store, ref, nil); err != nil {
		t.Errorf("one who has the whole content: %v", err)
	}
}

func TestAccessPublicWhileRegistryIsAway(t *testing.T) {
	r := newRig(t, nil)
	if err := r.resolve(t); err != nil {
		t.Fatal(err)
	}
	r.reg.Close()
	if err := r.resolve(t); err != nil {
		t.Errorf("cached public image: %v", err)
	}
	byDigest := strings.TrimSuffix(r.ref, ":1") + "@" + imagetest.Digest(t, r.img)
	if err := resolve(t, r.store, byDigest, nil); err != nil {
		t.Errorf("cached public image by digest: %v", err)
	}
}

// TestAccessBecomesPublic lets everybody have what was pulled with a login that
// was not needed.
func TestAccessBecomesPublic(t *testing.T) {
	r := newRig(t, nil)
	if err := resolve(t, r.store, r.ref, login); err != nil {
		t.Fatal(err)
	}
	digest := imagetest.Digest(t, r.img)
	requireCode(t, resolve(t, r.store, digest, nil), "IMAGE_NOT_FOUND")
	if err := r.resolve(t); err != nil {
		t.Fatal(err)
	}
	if err := resolve(t, r.store, digest, nil); err != nil {
		t.Error(err)
	}
}

func TestResolveFollowsTag(t *testing.T) {
	r := newRig(t, nil)
	if err := r.resolve(t); err != nil {
		t.Fatal(err)
	}
	next := imagetest.Image(t, v1.Config{}, imagetest.Tar(t, imagetest.File("new", "1")))
	r.reg.Push(t, "team/app:1", next)
	lease, err := r.store.Resolve(t.Context(), machine.ImageRequest{Ref: r.ref})
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	if lease.Digest != imagetest.Digest(t, next) {
		t.Errorf("tag still names %s", lease.Digest)
	}
	old, err := r.store.Open(t.Context(), imagetest.Digest(t, r.img))
	if err != nil {
		t.Fatalf("image that machines have pinned: %v", err)
	}
	old.Release()
}

// TestHostCredentials uses the login of a Docker credential file, and only
// where it is allowed.
func TestHostCredentials(t *testing.T) {
	r := newRig(t, nil)
	dir := t.TempDir()
	config := `{"auths":{"` + r.reg.Host + `":{"auth":"dTpw"}}}` // u:p
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	r.reg.RequireLogin("u", "p")
	requireCode(t, r.resolve(t), "REGISTRY_UNAUTHORIZED")
	with := openStore(t, func(o *Options) { o.HostCredentials = true })
	if err := resolve(t, with, r.ref, nil); err != nil {
		t.Error(err)
	}
}

// TestNoSecretInErrors looks for the password in everything an error says.
func TestNoSecretInErrors(t *testing.T) {
	r := newRig(t, nil)
	r.reg.RequireLogin("u", "other")
	err := resolve(t, r.store, r.ref, &machine.RegistryAuth{Username: "name-9", Password: "secret-7"})
	requireCode(t, err, "REGISTRY_UNAUTHORIZED")
	if s := err.Error(); strings.Contains(s, "secret-7") || strings.Contains(s, "bmFtZS05OnNlY3JldC03") {
		t.Errorf("error tells the login: %s", s)
	}
}
