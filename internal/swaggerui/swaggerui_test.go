package swaggerui

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func newServer(t *testing.T) *httptest.Server {
	mux := http.NewServeMux()
	mux.Handle("GET /fleet/docs", Page("/fleet/docs"))
	mux.Handle("GET /fleet/docs/{$}", Page("/fleet/docs"))
	mux.HandleFunc("GET /fleet/docs/assets/{name}", func(w http.ResponseWriter, r *http.Request) {
		if !Asset(w, r) {
			http.NotFound(w, r)
		}
	})
	ts := httptest.NewServer(mux)
	t.Cleanup(ts.Close)
	return ts
}

type answer struct {
	status int
	header http.Header
	url    *url.URL
}

func get(t *testing.T, url string, header ...string) (answer, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, resp.Request.URL}, string(body)
}

// Every file that the page names is there, with and without a slash at the end
// of the page's address, and none is of another host.
func TestPageIsWhole(t *testing.T) {
	ts := newServer(t)
	for _, path := range []string{"/fleet/docs", "/fleet/docs/"} {
		resp, page := get(t, ts.URL+path)
		if resp.status != http.StatusOK || !strings.Contains(resp.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Fatalf("%s: %d, policy %q", path, resp.status, resp.header.Get("Content-Security-Policy"))
		}
		base := regexp.MustCompile(`<base href="([^"]*)">`).FindStringSubmatch(page)[1]
		links := regexp.MustCompile(`(?:src|href)="(assets/[^"]*)"`).FindAllStringSubmatch(page, -1)
		if len(links) != 5 || strings.Contains(page, "//") || strings.Contains(page, "<style") || strings.Contains(page, "<script>") {
			t.Errorf("%d links in\n%s", len(links), page)
		}
		for _, link := range links {
			file, err := resp.url.Parse(base)
			if err == nil {
				file, err = file.Parse(link[1])
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, _ := get(t, file.String()); got.status != http.StatusOK || got.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %d", file, got.status)
			}
		}
	}
}

func TestAssetIsTheSamePackedAndUnpacked(t *testing.T) {
	ts := newServer(t)
	for name := range assets {
		url := ts.URL + "/fleet/docs/assets/" + name
		_, plain := get(t, url)
		resp, packed := get(t, url, "Accept-Encoding", "br, gzip")
		if resp.header.Get("Content-Encoding") == "gzip" {
			r, err := gzip.NewReader(strings.NewReader(packed))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			packed = string(raw)
		}
		if plain != packed || plain == "" {
			t.Errorf("%s: %d bytes plain, %d unpacked", name, len(plain), len(packed))
		}
	}
}

func TestUnknownAsset(t *testing.T) {
	ts := newServer(t)
	for _, name := range []string{"embed.go", "..%2fembed.go", "swagger-ui-bundle.js.gz", ""} {
		if resp, _ := get(t, ts.URL+"/fleet/docs/assets/"+name); resp.status != http.StatusNotFound {
			t.Errorf("%q: %d", name, resp.status)
		}
	}
}
