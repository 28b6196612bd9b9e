package manifest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

var (
	digest1 = "sha256:" + strings.Repeat("1", 64)
	digest2 = "sha256:" + strings.Repeat("2", 64)
)

func layers(n int, mediaType string) string {
	l := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, mediaType, digest2)
	return strings.TrimSuffix(strings.Repeat(l+",", n), ",")
}

func TestParse(t *testing.T) {
	config := fmt.Sprintf(`"config":{"mediaType":%q,"digest":%q,"size":2}`, OCIConfig, digest1)
	valid := `{"schemaVersion":2,` + config + `,"layers":[` + layers(2, OCILayer+"+gzip") + `]}`
	for _, tc := range []struct {
		name, doc, code string
	}{
		{"valid", valid, ""},
		{"valid without layers", `{"schemaVersion":2,` + config + `,"layers":[]}`, ""},
		{"valid Docker types", strings.ReplaceAll(strings.ReplaceAll(valid, OCIConfig, DockerConfig), OCILayer+"+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"), ""},
		{"valid index", fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q,"size":1}]}`, digest1), ""},
		{"no JSON", "<html>", "IMAGE_CORRUPT"},
		{"null", "null", "IMAGE_UNSUPPORTED"},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "IMAGE_UNSUPPORTED"},
		{"both", `{"schemaVersion":2,"manifests":[],` + config + `}`, "IMAGE_CORRUPT"},
		{"no config", `{"schemaVersion":2,"layers":[]}`, "IMAGE_CORRUPT"},
		{"no digest", `{"schemaVersion":2,"config":{"size":1}}`, "IMAGE_CORRUPT"},
		{"bad digest", `{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1}}`, "IMAGE_CORRUPT"},
		{"negative size", strings.Replace(valid, `"size":1`, `"size":-1`, 1), "IMAGE_CORRUPT"},
		{"too many layers", `{"schemaVersion":2,` + config + `,"layers":[` + layers(11, OCILayer) + `]}`, "IMAGE_TOO_MANY_LAYERS"},
		{"too many manifests", `{"schemaVersion":2,"manifests":[` + layers(MaxIndexEntries+1, OCIManifest) + `]}`, "IMAGE_MANIFEST_TOO_LARGE"},
		{"artifact", strings.Replace(valid, OCIConfig, "application/vnd.cncf.helm.config.v1+json", 1), "IMAGE_UNSUPPORTED"},
		{"encrypted layer", strings.Replace(valid, "+gzip", "+gzip+encrypted", 1), "IMAGE_UNSUPPORTED"},
		{"layer of another kind", strings.Replace(valid, OCILayer, "application/vnd.in-toto", 1), "IMAGE_UNSUPPORTED"},
	} {
		_, err := Parse([]byte(tc.doc), "", 10)
		if (err == nil) != (tc.code == "") || err != nil && errdefs.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.code)
		}
	}
}

func TestSelect(t *testing.T) {
	entry := func(os, arch, variant, digest string) string {
		return fmt.Sprintf(`{"digest":%q,"size":1,"platform":{"os":%q,"architecture":%q,"variant":%q}}`, digest, os, arch, variant)
	}
	plain := fmt.Sprintf(`{"digest":%q,"size":1}`, digest1)
	for _, tc := range []struct {
		name    string
		entries []string
		want    string
	}{
		{"the right one", []string{entry("linux", "arm64", "v8", digest2), entry("linux", "amd64", "", digest1), entry("unknown", "unknown", "", digest2)}, digest1},
		{"plain variant first", []string{entry("linux", "amd64", "v3", digest2), entry("linux", "amd64", "", digest1)}, digest1},
		{"only a high variant", []string{entry("linux", "amd64", "v3", digest1)}, digest1},
		{"other system", []string{entry("windows", "amd64", "", digest1)}, ""},
		{"single without platform", []string{plain}, digest1},
		{"several without platform", []string{plain, plain}, ""},
		{"none", nil, ""},
	} {
		doc, err := Parse([]byte(`{"schemaVersion":2,"manifests":[`+strings.Join(tc.entries, ",")+`]}`), "", 10)
		if err != nil {
			t.Fatal(err)
		}
		got, err := doc.Select("amd64")
		if string(got.Digest) != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v", tc.name, got.Digest, err)
		}
		if err != nil && errdefs.CodeOf(err) != "IMAGE_NO_PLATFORM" {
			t.Errorf("%s: got %v", tc.name, err)
		}
	}
}

func TestParseConfig(t *testing.T) {
	config := func(os, arch string, ids ...string) string {
		return fmt.Sprintf(`{"os":%q,"architecture":%q,"rootfs":{"type":"layers","diff_ids":["%s"]}}`, os, arch, strings.Join(ids, `","`))
	}
	for _, tc := range []struct{ name, doc, code string }{
		{"valid", config("linux", "amd64", digest1), ""},
		{"without platform", config("", "", digest1), ""},
		{"other platform", config("linux", "arm64", digest1), "IMAGE_NO_PLATFORM"},
		{"other system", config("windows", "amd64", digest1), "IMAGE_NO_PLATFORM"},
		{"two layers", config("linux", "amd64", digest1, digest2), "IMAGE_CORRUPT"},
		{"empty id", `{"rootfs":{"diff_ids":[null]}}`, "IMAGE_CORRUPT"},
		{"no JSON", "x", "IMAGE_CORRUPT"},
	} {
		_, err := ParseConfig([]byte(tc.doc), 1, "amd64")
		if (err == nil) != (tc.code == "") || err != nil && errdefs.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.code)
		}
	}
}

// FuzzParse reads any bytes as each of the documents: they end with an error
// that has a code, or with descriptors that are safe to use.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"digest":"`+digest1+`","size":2},"layers":[`+layers(2, OCILayer)+`]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+layers(2, OCIManifest)+`]}`), OCIIndex)
	f.Add([]byte(`{"os":"linux","config":{"Env":["A=b"],"Volumes":{"/x":{}}},"rootfs":{"diff_ids":["`+digest1+`"]}}`), "")
	f.Fuzz(func(t *testing.T, b []byte, contentType string) {
		doc, err := Parse(b, contentType, 10)
		if err != nil && errdefs.Is(err, errdefs.Internal) {
			t.Errorf("error without a kind: %v", err)
		}
		if err == nil {
			all := append(append([]Descriptor{}, doc.Layers...), doc.Manifests...)
			if doc.Config != nil {
				all = append(all, *doc.Config)
			}
			for _, d := range all {
				if _, err := ParseDigest(string(d.Digest)); err != nil || d.Size < 0 {
					t.Errorf("accepted %+v", d)
				}
			}
			if doc.IsIndex() {
				_, _ = doc.Select("amd64")
			}
		}
		if _, err := ParseConfig(b, 1, "amd64"); err != nil && errdefs.Is(err, errdefs.Internal) {
			t.Errorf("error without a kind: %v", err)
		}
	})
}
