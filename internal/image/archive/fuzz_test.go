package archive

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"

	"archive/tar"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
)

// openAndRead opens any bytes, and reads all layers if that works.
func openAndRead(t *testing.T, b []byte) {
	img, err := open(t, b, options(t))
	if err != nil {
		if errdefs.Is(err, errdefs.Internal) {
			t.Errorf("error without a kind: %v", err)
		}
		return
	}
	for _, l := range img.Layers {
		r, err := l.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if err != nil || n > 1<<20 && img.Kind != "rootfs" {
			t.Errorf("layer of %d bytes: %v", n, err)
		}
		r.Close()
	}
}

// FuzzOpen opens any bytes as an archive.
func FuzzOpen(f *testing.F) {
	s := newSample()
	id := strings.Repeat("c", 64)
	f.Add(s.layout(f))
	f.Add(imagetest.Gzip(f, s.layout(f)))
	f.Add(imagetest.Zstd(f, s.layout(f)))
	f.Add(imagetest.Tar(f, save(id+".json", id+"/layer.tar"), imagetest.File(id+".json", s.config), imagetest.Symlink(id+"/layer.tar", "../"+id+".json")))
	f.Add(imagetest.Tar(f, imagetest.Dir("bin")))
	f.Fuzz(openAndRead)
}

// FuzzMembers gives an archive's members any names, targets and content. None
// may lead to a file of the host.
func FuzzMembers(f *testing.F) {
	const secret = "hyperfleet test secret"
	host := f.TempDir() + "/secret"
	if err := os.WriteFile(host, []byte(secret), 0o600); err != nil {
		f.Fatal(err)
	}
	s := newSample()
	id := strings.Repeat("d", 64)
	f.Add("manifest.json", save(id+".json", host).Body, id+".json", host)
	f.Add("manifest.json", save("../../"+host, id).Body, id, "../../../../../../../"+host)
	f.Add("index.json", index(s.manifest).Body, blobFile(s.manifest).Name, host)
	f.Fuzz(func(t *testing.T, name, body, link, target string) {
		name, link = strings.TrimRight(name, "/"), strings.TrimRight(link, "/")
		if name == "" || link == "" || target == "" || strings.ContainsRune(name+link+target, 0) {
			return // the archive writer does not take it
		}
		hard := imagetest.Link(link, target)
		hard.Typeflag = tar.TypeLink
		for _, second := range []imagetest.Entry{imagetest.Symlink(link, target), hard, imagetest.File(link, target)} {
			img, err := open(t, imagetest.Tar(t, imagetest.File(name, body), second), options(t))
			if err != nil {
				if errdefs.Is(err, errdefs.Internal) {
					t.Errorf("error without a kind: %v", err)
				}
				continue
			}
			if string(img.Config) == secret {
				t.Error("a file of the host became the config")
			}
			for _, l := range img.Layers {
				if content(t, l) == secret {
					t.Error("a file of the host became a layer")
				}
			}
		}
	})
}
