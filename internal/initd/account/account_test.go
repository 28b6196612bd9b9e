package account_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hyperfleet/hyperfleet/internal/initd/account"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
# a comment: is no line
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
broken:line
bad:x:notanumber:1::/:
app:x:1000:1001:App,,,:/home/app:/bin/bash
homeless:x:1002:1002:::/bin/sh
4242:x:77:78::/home/number:/bin/sh
huge:x:4294967296:1::/:
toor:x:0:5:the other root:/toor:/bin/sh
`

const group = `root:x:0:
wheel:x:10:root,app
app:x:1001:app
docker:x:998:app,daemon
broken
audio:x:29:nobody,app
`

func database(t testing.TB, passwd, group string) account.Database {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return account.Database{Dir: dir}
}

func TestLookup(t *testing.T) {
	db := database(t, passwd, group)
	root := account.User{Name: "root", Home: "/root", Groups: []uint32{10}}
	app := account.User{Name: "app", Home: "/home/app", UID: 1000, GID: 1001, Groups: []uint32{10, 998, 29}}
	for spec, want := range map[string]account.User{
		"":            root,
		"root":        root,
		"toor":        {Name: "toor", Home: "/toor", GID: 5},
		"0":           root,
		"app":         app,
		"1000":        app,
		"app:":        app,
		"app:docker":  {Name: "app", Home: "/home/app", UID: 1000, GID: 998},
		"app:7":       {Name: "app", Home: "/home/app", UID: 1000, GID: 7},
		"1000:docker": {Name: "app", Home: "/home/app", UID: 1000, GID: 998},
		"5000":        {Home: "/", UID: 5000},
		"5000:6000":   {Home: "/", UID: 5000, GID: 6000},
		"homeless":    {Name: "homeless", Home: "/", UID: 1002, GID: 1002},
		"4242":        {Name: "4242", Home: "/home/number", UID: 77, GID: 78},
		":wheel":      {Name: "root", Home: "/root", GID: 10},
	} {
		got, err := db.Lookup(spec)
		if err != nil {
			t.Errorf("Lookup(%q): %v", spec, err)
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("Lookup(%q):\n%s", spec, diff)
		}
	}
	for _, spec := range []string{"nobody", "app:nogroup", "bad", "broken", "-1", "4294967295", "huge", "99999999999999999999"} {
		if u, err := db.Lookup(spec); !errors.Is(err, account.ErrUnknown) {
			t.Errorf("Lookup(%q) = %+v, %v; want ErrUnknown", spec, u, err)
		}
	}
}

func TestLookupWithoutFiles(t *testing.T) {
	db := account.Database{Dir: t.TempDir()}
	for spec, want := range map[string]account.User{
		"":     {Name: "root", Home: "/root"},
		"root": {Name: "root", Home: "/root"},
		"7:8":  {Home: "/", UID: 7, GID: 8},
	} {
		if got, err := db.Lookup(spec); err != nil || !cmp.Equal(got, want) {
			t.Errorf("Lookup(%q) = %+v, %v; want %+v", spec, got, err, want)
		}
	}
}

func TestLookupSkipsLongLines(t *testing.T) {
	long := "app:x:1:1:" + strings.Repeat("x", 1<<20) + ":/:\n"
	u, err := database(t, long+"app:x:2:2::/:\n", "").Lookup("app")
	if err != nil || u.UID != 2 {
		t.Errorf("Lookup = %+v, %v; want uid 2", u, err)
	}
}

func TestLookupRefusesFIFO(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "passwd")); err != nil {
		t.Fatal(err)
	}
	if _, err := (account.Database{Dir: dir}).Lookup("app"); err == nil {
		t.Error("Lookup read a device")
	}
}

func FuzzLookup(f *testing.F) {
	f.Add(passwd, group, "app:docker")
	f.Add("a:x:0:0:::", "", "a")
	f.Add(":::::::\n\n::", "::", ":")
	f.Fuzz(func(t *testing.T, passwd, group, spec string) {
		u, err := database(t, passwd, group).Lookup(spec)
		if err == nil && (u.Home == "" || u.UID > 1<<31-1 || u.GID > 1<<31-1 || len(u.Groups) > 1024) {
			t.Errorf("Lookup(%q) = %+v", spec, u)
		}
	})
}
