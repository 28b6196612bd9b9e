//go:build host

package debian_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/kernel/debian"
)

// TestRealPackage downloads a package of the host's distribution and compares
// what Walk finds with what dpkg finds.
func TestRealPackage(t *testing.T) {
	var apt debian.Apt
	p, err := apt.Find(t.Context(), "busybox-static")
	if err != nil {
		t.Fatal(err)
	}
	file, err := apt.Download(t.Context(), p, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got bytes.Buffer
	err = debian.Walk(f, func(name string, h *tar.Header, body io.Reader) error {
		n, err := io.Copy(io.Discard, body)
		fmt.Fprintf(&got, "%c %s %d\n", h.Typeflag, name, n)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dpkgList(t, file), got.String()); diff != "" {
		t.Errorf("files (-dpkg +Walk):\n%s", diff)
	}
}

func dpkgList(t *testing.T, file string) string {
	t.Helper()
	data, err := exec.CommandContext(t.Context(), "dpkg-deb", "--fsys-tarfile", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var list strings.Builder
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if name := path.Clean(h.Name); name != "." {
			fmt.Fprintf(&list, "%c %s %d\n", h.Typeflag, name, h.Size)
		}
	}
}
