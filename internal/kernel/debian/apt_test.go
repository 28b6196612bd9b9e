package debian_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/kernel/debian/debiantest"
)

func archive() *debiantest.Archive {
	return &debiantest.Archive{Packages: []debiantest.Package{
		{Name: "demo", Depends: "linux-image-1 (>= 2~), aa | b, cc:any", File: []byte("file of demo")},
	}}
}

func TestAptFind(t *testing.T) {
	for _, needsUpdate := range []bool{false, true} {
		a := archive()
		a.NeedsUpdate = needsUpdate
		apt := a.Apt()
		p, err := apt.Find(t.Context(), "demo")
		if err != nil {
			t.Fatal(err)
		}
		if p.String() != "demo=1.0-1" || !slices.Equal(p.Depends, []string{"linux-image-1", "aa", "cc"}) {
			t.Errorf("found %+v", p)
		}
		if updated := slices.Contains(a.Calls(), "apt-get update -q"); updated != needsUpdate {
			t.Errorf("index updated: %v, want %v", updated, needsUpdate)
		}
	}
}

func TestAptFindFails(t *testing.T) {
	tests := map[string]struct {
		change func(*debiantest.Archive)
		name   string
		code   string
	}{
		"no such package":   {func(*debiantest.Archive) {}, "other", "PACKAGE_NOT_FOUND"},
		"no apt":            {func(a *debiantest.Archive) { a.Missing = true }, "demo", "APT_NOT_FOUND"},
		"update fails":      {func(a *debiantest.Archive) { a.NeedsUpdate, a.Fail = true, "apt-get update" }, "demo", "APT_FAILED"},
		"name is an option": {func(*debiantest.Archive) {}, "-o=x", "PACKAGE_INVALID"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := archive()
			tt.change(a)
			apt := a.Apt()
			if _, err := apt.Find(t.Context(), tt.name); errdefs.CodeOf(err) != tt.code {
				t.Errorf("error %v, want code %s", err, tt.code)
			}
		})
	}
}

func TestAptDownload(t *testing.T) {
	a := archive()
	apt := a.Apt()
	p, err := apt.Show(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, err := apt.Download(t.Context(), p, dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "file of demo" || filepath.Dir(file) != dir {
		t.Errorf("downloaded %q to %s, %v", b, file, err)
	}
}

func TestAptDownloadFails(t *testing.T) {
	tests := map[string]struct {
		change func(*debiantest.Archive)
		code   string
	}{
		"other file": {func(a *debiantest.Archive) { a.Corrupt = true }, "PACKAGE_CORRUPT"},
		"apt fails":  {func(a *debiantest.Archive) { a.Fail = "apt-get download" }, "APT_FAILED"},
		"no apt":     {func(a *debiantest.Archive) { a.Missing = true }, "APT_NOT_FOUND"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := archive()
			apt := a.Apt()
			p, err := apt.Show(t.Context(), "demo")
			if err != nil {
				t.Fatal(err)
			}
			tt.change(a)
			if _, err := apt.Download(t.Context(), p, t.TempDir()); errdefs.CodeOf(err) != tt.code {
				t.Errorf("error %v, want code %s", err, tt.code)
			}
		})
	}
}
