package account

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func lookup(t *testing.T, c *Cache, spec string) User {
	t.Helper()
	u, err := c.Lookup(spec)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestCacheSeesEveryChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "group", "app:x:7:\n")
	c := NewCache(Database{Dir: dir})
	for _, uid := range []string{"1", "2", "3"} { // of one length, within one tick of the clock
		write(t, dir, "passwd", "app:x:"+uid+":7::/:\n")
		if got := lookup(t, c, "app").UID; got != uint32(uid[0]-'0') {
			t.Errorf("uid %d after the change to %s", got, uid)
		}
	}
	if err := os.Remove(filepath.Join(dir, "passwd")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Lookup("app"); !errors.Is(err, ErrUnknown) {
		t.Errorf("a user of a file that is gone: %v", err)
	}
}

func TestCacheRemembersSettledFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "passwd", "app:x:1:7::/:\n")
	write(t, dir, "group", "app:x:7:\n")
	c := NewCache(Database{Dir: dir})
	v := c.db.version()
	if now := time.Now(); v.settled(now) || !v.settled(now.Add(settled+time.Second)) {
		t.Error("a file is settled once it is old")
	}
	c.put(v, "app", User{UID: 42})
	if got := lookup(t, c, "app").UID; got != 42 {
		t.Errorf("uid %d was read anew", got)
	}
	write(t, dir, "group", "app:x:70:\n")
	if got := lookup(t, c, "app").UID; got != 1 {
		t.Errorf("uid %d of files that have changed", got)
	}
	for i := range 2 * maxCached {
		c.put(v, string(rune('a'+i)), User{})
	}
	if len(c.known) > maxCached {
		t.Errorf("%d users are remembered", len(c.known))
	}
}
