//go:build vm

package reference

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/busybox"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// busyboxImage is a small image that boots, for a registry.
func busyboxImage(t *testing.T) v1.Image {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if err := busybox.WriteLayout(t.Context(), dir, busybox.Options{}); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// with adds a layer and an environment variable to an image.
func with(t *testing.T, img v1.Image, variable string, entries ...imagetest.Entry) v1.Image {
	t.Helper()
	layer, err := imagetest.Image(t, v1.Config{}, imagetest.Tar(t, entries...)).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if img, err = mutate.AppendLayers(img, layer...); err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config := *file.Config.DeepCopy()
	config.Env = append(config.Env, variable)
	if img, err = mutate.Config(img, config); err != nil {
		t.Fatal(err)
	}
	return img
}

// Every form of a reference names what it should, and what is none is refused.
func TestDefect05TagsAndReferences(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "")
	reg := imagetest.Registry(t)
	img := imagetest.Image(t, v1.Config{}, imagetest.Tar(t, imagetest.File("f", "x")))
	digest := imagetest.Digest(t, img)
	for _, name := range []string{"app:3.20", "node:20", "node:latest"} {
		reg.Push(t, name, img)
	}
	for _, ref := range []string{"/app:3.20", "/node:20", "/node", "/node@" + digest, "/app:3.20@" + digest} {
		got := w.post("/images/pull", jsonOf(map[string]string{"image": reg.Host + ref})).want(200).object()
		if got["digest"] != digest {
			t.Errorf("%s is %v, want %s", ref, got["digest"], digest)
		}
	}
	for _, ref := range []string{"alpine:", "Alpine", "al pine", "alpine:a b", "alpine@sha256:1", "/alpine", "alpine:3:4"} {
		a := w.post("/images/pull", jsonOf(map[string]string{"image": ref}))
		if a.status != 400 {
			t.Errorf("pull of %q: status %d, want 400: %s", ref, a.status, a.body)
		}
		if a := w.post("/machines", jsonOf(map[string]any{"name": "x", "vcpu_count": 1, "mem_size_mib": 128, "image": ref})); a.status != 400 {
			t.Errorf("machine of %q: status %d, want 400: %s", ref, a.status, a.body)
		}
	}
}

// Machines of one image share no writable byte.
func TestDefect06MachinesShareNoDisk(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	a, b := w.running("a", image), w.running("b", image)
	w.exec(a.ID, "sh", "-c", "echo secret >/etc/secret; rm /etc/passwd; sync")
	if got := w.exec(b.ID, "sh", "-c", "test -s /etc/passwd && ! test -e /etc/secret && echo apart"); got.Stdout != "apart\n" {
		t.Errorf("the second machine: %+v", got)
	}
	w.delete("/machines/" + a.ID).want(204)
	later := w.running("later", image)
	if got := w.exec(later.ID, "sh", "-c", "test -s /etc/passwd && ! test -e /etc/secret && echo apart"); got.Stdout != "apart\n" {
		t.Errorf("a machine made later: %+v", got)
	}
}

// An image's links lead nowhere on the host.
func TestDefect19LinksOfImagesStayInside(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "")
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("the host's own"), 0o600); err != nil {
		t.Fatal(err)
	}
	reg := imagetest.Registry(t)
	ref := reg.Push(t, "evil:1", with(t, busyboxImage(t), "A=1",
		imagetest.Symlink("etc/resolv.conf", victim), imagetest.Symlink("init", victim),
		imagetest.Symlink("etc/hosts", "../../../../.."+victim), imagetest.Symlink("etc/hostname", victim)))
	m := w.running("evil", ref, `"network":{"enable":true}`)
	if got := w.exec(m.ID, "readlink", "/init"); got.Stdout != victim+"\n" {
		t.Errorf("the image's own link is gone: %+v", got)
	}
	w.post("/machines/"+m.ID+"/files", jsonOf(map[string]string{"path": "/etc/resolv.conf", "content": base64Of("nameserver 192.0.2.1\n")}))
	if got, err := os.ReadFile(victim); err != nil || string(got) != "the host's own" {
		t.Errorf("a file of the host: %q, %v", got, err)
	}
}

// A registry's password is in no file, no process list and no log, and what was
// pulled with it is given to nobody who has none.
func TestDefect20RegistryPasswordsAreNotKept(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "")
	reg := imagetest.Registry(t)
	ref := reg.Push(t, "private:1", busyboxImage(t))
	const password = "correct-horse-battery"
	reg.RequireLogin("ann", password)
	auth := `"registry_auth":{"username":"ann","password":"` + password + `"}`
	m := w.running("private", ref, auth)
	for _, p := range h.VMMs() {
		if strings.Contains(p.Cmdline, password) {
			t.Errorf("the password is in the process list: %s", p.Cmdline)
		}
	}
	if strings.Contains(string(w.get("/machines/"+m.ID).want(200).body), password) || strings.Contains(h.Log(), password) {
		t.Error("the password is in an answer or the log")
	}
	for _, dir := range []string{h.State, h.Run} {
		for _, f := range filesBelow(t, dir) {
			if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), password) {
				t.Errorf("the password is in %s", f)
			}
		}
	}
	w.post("/images/pull", jsonOf(map[string]string{"image": ref})).want(401)
	thief := w.create("thief", ref)
	w.post("/machines/"+thief.ID+"/start", "").want(401)
}

// An image's size, digest, tag, owners and configuration count; pulls at once
// are one.
func TestDefect33ImagesAreResolvedAndKept(t *testing.T) {
	h := hosttest.New(t)
	w := newWire(t, h, "")
	reg := imagetest.Registry(t)
	owned := imagetest.File("etc/owned", "x")
	owned.Uid, owned.Gid = 1234, 5678
	one := with(t, busyboxImage(t), "GENERATION=one", owned)
	ref := reg.Push(t, "moving:latest", one)
	reg.Requests()

	var wg sync.WaitGroup
	machines := make([]hyperfleet.Machine, 3)
	for i := range machines {
		machines[i] = w.create("m", ref, `"image_size_mib":`+[]string{"64", "128", "256"}[i])
		wg.Go(func() {
			var err error
			if machines[i], err = h.StartMachine(t.Context(), machines[i].ID); err != nil {
				t.Errorf("start %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	blobs := map[string]int{}
	for _, r := range reg.Requests() {
		if strings.HasPrefix(r, "GET") && strings.Contains(r, "/blobs/") {
			blobs[r]++
		}
	}
	for r, n := range blobs {
		if n > 1 {
			t.Errorf("%s was asked for %d times", r, n)
		}
	}
	for i, m := range machines {
		if m.ImageDigest == nil || *m.ImageDigest != imagetest.Digest(t, one) {
			t.Errorf("machine %d: digest %v", i, m.ImageDigest)
		}
	}
	got := w.exec(machines[0].ID, "sh", "-c", `echo $GENERATION; stat -c %u:%g /etc/owned; df -k / | tail -1 | awk '{print ($2 < 70000)}'`)
	if got.Stdout != "one\n1234:5678\n1\n" {
		t.Errorf("configuration, owner and size: %+v", got)
	}
	if got := w.exec(machines[2].ID, "sh", "-c", `df -k / | tail -1 | awk '{print ($2 > 200000)}'`); got.Stdout != "1\n" {
		t.Errorf("the size of a machine whose image is cached: %+v", got)
	}

	two := with(t, busyboxImage(t), "GENERATION=two", imagetest.File("etc/two", "x"))
	reg.Push(t, "moving:latest", two)
	m := w.running("moved", ref)
	if got := w.exec(m.ID, "sh", "-c", "echo $GENERATION"); got.Stdout != "two\n" {
		t.Errorf("after the tag has moved: %+v", got)
	}
	w.post("/machines/"+machines[0].ID+"/restart", "").want(200)
	if got := w.exec(machines[0].ID, "sh", "-c", "echo $GENERATION"); got.Stdout != "one\n" {
		t.Errorf("a machine that was there before the tag moved: %+v", got)
	}
}

// filesBelow lists the regular files below dir.
func filesBelow(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went while we looked
		}
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
