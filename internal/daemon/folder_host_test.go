//go:build host

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A link of somebody else would let them choose which folder we close. Only
// root can make one.
func TestMakeDirRefusesLinkOfOthers(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.Mkdir(target, 0o711); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(link, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, link + "/"} {
		if err := makeDir(path, 0o700); err == nil || !strings.Contains(err.Error(), "uid 65534") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("the target is changed: %v, %v", info.Mode(), err)
	}
}
