package image

import (
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

var someDigest = "sha256:" + strings.Repeat("0123456789abcdef", 4)

func TestParseReference(t *testing.T) {
	for in, want := range map[string]string{
		"alpine":                              "docker.io/library/alpine:latest",
		"  alpine\n":                          "docker.io/library/alpine:latest",
		"alpine:3.18":                         "docker.io/library/alpine:3.18",
		"node:20":                             "docker.io/library/node:20",
		"alpine:3.18@" + someDigest:           "docker.io/library/alpine@" + someDigest,
		"alpine@" + someDigest:                "docker.io/library/alpine@" + someDigest,
		"myuser/myimage":                      "docker.io/myuser/myimage:latest",
		"myuser/myimage:v1.0":                 "docker.io/myuser/myimage:v1.0",
		"docker.io/alpine":                    "docker.io/library/alpine:latest",
		"index.docker.io/library/alpine:1":    "docker.io/library/alpine:1",
		"ghcr.io/owner/repo:v1.0":             "ghcr.io/owner/repo:v1.0",
		"gcr.io/project/image":                "gcr.io/project/image:latest",
		"localhost/image":                     "localhost/image:latest",
		"localhost:5000/myimage:latest":       "localhost:5000/myimage:latest",
		"localhost:5000/myimage":              "localhost:5000/myimage:latest",
		"127.0.0.1:5000/a/b/c:1":              "127.0.0.1:5000/a/b/c:1",
		"[::1]:5000/a:1":                      "[::1]:5000/a:1",
		"Registry.Example.COM/a":              "registry.example.com/a:latest",
		"a/b_c__d-e---f.g:_Tag.-x":            "docker.io/a/b_c__d-e---f.g:_Tag.-x",
		someDigest:                            someDigest,
		"alpine:" + strings.Repeat("t", 128):  "docker.io/library/alpine:" + strings.Repeat("t", 128),
		"sha512:" + strings.Repeat("0", 128):  "sha512:" + strings.Repeat("0", 128),
		"example.com:443/x@" + someDigest:     "example.com:443/x@" + someDigest,
		"example.com:443/x:tag@" + someDigest: "example.com:443/x@" + someDigest,
	} {
		ref, err := ParseReference(in)
		if err != nil || ref.String() != want {
			t.Errorf("%q: got %q, %v; want %q", in, ref, err, want)
			continue
		}
		if again, err := ParseReference(ref.String()); err != nil || again.String() != want {
			t.Errorf("%q is not stable: %q, %v", want, again, err)
		}
	}
}

func TestParseReferenceRefuses(t *testing.T) {
	for _, in := range []string{
		"", " ", "alpine:", "alpine:3.18:1", "alp ine", "alpine: 3", "alpine:3 .18", "Alpine", "user/Image", "a\tb",
		"alpine:" + strings.Repeat("t", 129), "alpine:.tag", "alpine:-tag", "alpine@", "alpine@sha256:abc",
		"alpine@md5:" + strings.Repeat("0", 32), "alpine@" + strings.ToUpper(someDigest), "alpine@" + someDigest + "@" + someDigest,
		strings.Repeat("0123456789abcdef", 4), "/alpine", "alpine/", "a//b", "a/./b", "../a", "a/../b",
		"-a", "a-", "a..b", "a___b", "_a", "https://docker.io/alpine", "docker://alpine", "host:port/a", "exa mple.com/a", "example.com/",
		"user@example.com/a", "a;b", "$(id)", "a\x00b", "é", "example.com:123456/a", strings.Repeat("a", 256), strings.Repeat("a/", 2000),
	} {
		if ref, err := ParseReference(in); errdefs.CodeOf(err) != "INVALID_IMAGE_REF" || errdefs.KindOf(err) != errdefs.Invalid {
			t.Errorf("%q: got %q, %v", in, ref, err)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	f.Add("localhost:5000/a/b:tag@" + someDigest)
	f.Add("[::1]:1/a")
	f.Fuzz(func(t *testing.T, in string) {
		ref, err := ParseReference(in)
		if err != nil {
			if errdefs.CodeOf(err) != "INVALID_IMAGE_REF" {
				t.Errorf("%q: %v", in, err)
			}
			return
		}
		again, err := ParseReference(ref.String())
		if err != nil || again.String() != ref.String() {
			t.Errorf("%q gives %q, and that %q, %v", in, ref, again, err)
		}
	})
}
