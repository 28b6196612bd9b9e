package auth

import (
	"slices"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

func TestScopesAllow(t *testing.T) {
	for _, c := range []struct {
		have   string // separated by spaces
		allows string
		not    string
	}{
		{"", "", "machines:read * keys:*"},
		{"machines:read", "machines:read", "machines:write machines:exec machines:* images:read keys:read *"},
		{"machines:write", "machines:write", "machines:read machines:exec"},
		{"machines:*", "machines:read machines:write machines:exec machines:*", "images:read keys:read *"},
		{"keys:read", "keys:read", "keys:write keys:*"},
		{"machines:read machines:write machines:exec", "machines:exec", "machines:*"}, // a star holds later actions too
		{"machines:* images:* keys:*", "keys:write", "*"},
		{"*", "* machines:* machines:exec images:write keys:*", ""},
	} {
		have := parse(t, c.have)
		for _, s := range parse(t, c.allows) {
			if !have.Allows(s) {
				t.Errorf("%q does not allow %s", c.have, s)
			}
		}
		for _, s := range parse(t, c.not) {
			if have.Allows(s) {
				t.Errorf("%q allows %s", c.have, s)
			}
		}
	}
}

func parse(t *testing.T, text string) (list Scopes) {
	t.Helper()
	for f := range strings.FieldsSeq(text) {
		s, err := ParseScope(f)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

func TestParseScopeRefusesWhatThereIsNot(t *testing.T) {
	for _, s := range []string{"", "machines", "machines:", ":read", "machines:Read", " machines:read", "machines:read ", "**", "machines:read:*", "volumes:read", "*:read"} {
		if _, err := ParseScope(s); !errdefs.Is(err, errdefs.Invalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// FuzzParseScope: what is accepted is one of the known, and "*" alone allows
// what is not.
func FuzzParseScope(f *testing.F) {
	for _, s := range Known() {
		f.Add(string(s))
	}
	f.Add("machines:*:read")
	f.Fuzz(func(t *testing.T, in string) {
		s, err := ParseScope(in)
		if (err == nil) != slices.Contains(Known(), Scope(in)) || err == nil && string(s) != in {
			t.Fatalf("%q: %q, %v", in, s, err)
		}
		for _, have := range Known() {
			resource, _, _ := strings.Cut(in, ":")
			want := have == All || string(have) == in || strings.Contains(in, ":") && string(have) == resource+":*"
			if got := (Scopes{have}).Allows(Scope(in)); got != want {
				t.Errorf("%s allows %q: %v", have, in, got)
			}
		}
	})
}
