package guest

import (
	"path"
	"strings"
	"testing"
)

// An entry of a list stays inside the folder that was listed.
func FuzzListEntry(f *testing.F) {
	f.Add([]byte(`{"name":"a","size":1,"mode":420,"mtime_ns":5}`))
	f.Add([]byte(`{"name":{"base64":"Li4vLi4="}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		fi, err := parseEntry("/d", line)
		if err == nil && (path.Dir(fi.Path) != "/d" || fi.Size < 0 || strings.Contains(fi.Path, "\x00")) {
			t.Fatalf("%+v", fi)
		}
	})
}
