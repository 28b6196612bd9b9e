package account

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxCached bounds the specifications that a Cache remembers.
const maxCached = 64

// settled is how long ago a file must have changed last for what it says to be
// remembered. A later change then has another time, however coarse the clock
// of the file system is.
const settled = 2 * time.Second

// Cache remembers what a Database says, as long as its files are the same: most
// commands of a guest run as one user. It is safe for concurrent use.
type Cache struct {
	db Database

	mu    sync.Mutex
	from  version // of what is in known
	known map[string]User
}

// NewCache returns an empty Cache of db.
func NewCache(db Database) *Cache { return &Cache{db: db} }

// version tells states of the two files apart.
type version struct{ passwd, group fileVersion }

// fileVersion is zero for a file that cannot be looked at.
type fileVersion struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// Lookup is Database.Lookup.
func (c *Cache) Lookup(spec string) (User, error) {
	now := time.Now()
	v := c.db.version() // before the files are read: a change meanwhile is seen next time
	if u, ok := c.get(v, spec); ok {
		return u, nil
	}
	u, err := c.db.Lookup(spec)
	if err == nil && v.settled(now) {
		c.put(v, spec, u)
	}
	return u, err
}

func (c *Cache) get(v version, spec string) (User, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	u, ok := c.known[spec]
	return u, ok && c.from == v
}

func (c *Cache) put(v version, spec string, u User) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from != v || len(c.known) >= maxCached || c.known == nil {
		c.from, c.known = v, map[string]User{}
	}
	c.known[spec] = u
}

func (db Database) version() version {
	return version{versionOf(db.path("passwd")), versionOf(db.path("group"))}
}

func versionOf(path string) fileVersion {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return fileVersion{}
	}
	return fileVersion{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}
}

func (v version) settled(now time.Time) bool { return v.passwd.settled(now) && v.group.settled(now) }

func (f fileVersion) settled(now time.Time) bool {
	return f != fileVersion{} && now.Sub(time.Unix(f.ctime.Unix())) >= settled
}
