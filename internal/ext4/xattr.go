package ext4

import "strings"

// xattrPrefixes maps prefixes of names to the index that stands for them on
// disk. Those that end in a name stand for the whole name.
var xattrPrefixes = []struct {
	prefix string
	index  uint8
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// XattrSupported reports whether an extended attribute of this full name can be
// kept: the kernel knows user., trusted., security. and the two POSIX ACLs.
// Others, such as those of macOS, it can neither show nor set.
func XattrSupported(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

// splitXattr returns the index of a name's prefix and the rest of the name.
func splitXattr(name string) (uint8, string, bool) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if !ok {
			continue
		}
		whole := !strings.HasSuffix(p.prefix, ".")
		return p.index, rest, whole == (rest == "") && len(rest) <= 255 && !strings.Contains(rest, "\x00")
	}
	return 0, "", false
}
