package httpapi

import (
	"net/http/httptest"
	"strings"
	"testing"
)

const appOrigin = "https://app.test"

func withOrigins(origins ...string) func(*Config) {
	return func(c *Config) { c.CORSOrigins = origins }
}

func TestCORSIsOffByDefault(t *testing.T) {
	a := newAPI(t)
	for _, method := range []string{"GET", "OPTIONS"} {
		resp, _ := a.ask(method, "/machines", "", "Origin", appOrigin, "Access-Control-Request-Method", "POST")
		for name := range resp.Header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s: %s is sent", method, name)
			}
		}
	}
	if resp, body := a.ask("POST", "/machines", "{}", "Origin", appOrigin); resp.StatusCode != 403 {
		t.Errorf("cross-origin POST: %d %s", resp.StatusCode, body)
	}
}

func TestCORSPreflight(t *testing.T) {
	for _, c := range []struct {
		name    string
		origins []string
		origin  string
		want    string // Access-Control-Allow-Origin
	}{
		{"listed", []string{"http://other.test", appOrigin}, appOrigin, appOrigin},
		{"not listed", []string{appOrigin}, "https://evil.test", ""},
		{"prefix of a listed one", []string{appOrigin}, "https://app.test.evil.test", ""},
		{"other port", []string{appOrigin}, appOrigin + ":8443", ""},
		{"null", []string{appOrigin}, "null", ""},
		{"any", []string{"*"}, "https://evil.test", "*"},
		{"no origin", []string{"*"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAPI(t, withOrigins(c.origins...)).keyed()
			header := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization,idempotency-key"}
			if c.origin != "" {
				header = append(header, "Origin", c.origin)
			}
			resp, _ := a.ask("OPTIONS", "/api/v1/machines", "", header...)
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != c.want {
				t.Errorf("allowed origin %q, want %q", got, c.want)
			}
			if resp.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Error("credentials are allowed")
			}
			if (c.want != "*") != (resp.Header.Get("Vary") == "Origin") && c.origin != "" {
				t.Errorf("Vary: %q", resp.Header.Get("Vary"))
			}
			if c.want == "" {
				return
			}
			if resp.StatusCode != 204 || !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Authorization") ||
				!strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), "DELETE") {
				t.Errorf("preflight: %d %v", resp.StatusCode, resp.Header)
			}
		})
	}
}

func TestCORSRequests(t *testing.T) {
	a := newAPI(t, withOrigins(appOrigin))
	body := `{"name":"m","vcpu_count":1,"mem_size_mib":64,"image":"alpine"}`
	resp, answer := a.ask("POST", "/machines", body, "Origin", appOrigin, "Sec-Fetch-Site", "cross-site")
	if resp.StatusCode != 201 || resp.Header.Get("Access-Control-Allow-Origin") != appOrigin {
		t.Errorf("listed appOrigin: %d %v %s", resp.StatusCode, resp.Header, answer)
	}
	for _, name := range []string{"X-Correlation-ID", "X-Total-Count"} {
		if !strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), name) {
			t.Errorf("%s is not exposed", name)
		}
	}
	for _, header := range [][]string{{"Origin", "https://evil.test"}, {"Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "cross-site"}} {
		resp, answer := a.ask("POST", "/machines", body, header...)
		if resp.StatusCode != 403 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v: %d %s", header, resp.StatusCode, answer)
		}
	}
	// A appOrigin that may not read the answer gets it without the header.
	if resp, _ := a.ask("GET", "/machines", "", "Origin", "https://evil.test"); resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error("a foreign appOrigin may read the list")
	}
}

// Why a request is refused can be read by a appOrigin that may ask.
func TestCORSOnErrors(t *testing.T) {
	a := newAPI(t, withOrigins(appOrigin))
	if resp, _ := a.ask("GET", "/machines/nosuch", "", "Origin", appOrigin); resp.StatusCode != 404 || resp.Header.Get("Access-Control-Allow-Origin") != appOrigin {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
}

// With "*" every page may ask, and none gets anything without a key.
func TestCORSAnyOriginNeedsAKey(t *testing.T) {
	a := newAPI(t, withOrigins("*"))
	ts := httptest.NewServer(a.server.Handler())
	defer ts.Close()
	a.http.URL = ts.URL
	if resp, answer := a.ask("OPTIONS", "/machines", "", "Origin", "https://evil.test", "Access-Control-Request-Method", "POST"); resp.StatusCode != 204 {
		t.Errorf("a preflight, which has no key: %d %s", resp.StatusCode, answer)
	}
	for method, body := range map[string]string{"GET": "", "POST": newMachine} {
		resp, answer := a.ask(method, "/machines", body, "Origin", "https://evil.test", "Sec-Fetch-Site", "cross-site")
		if resp.StatusCode != 401 || resp.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s: %d %v %s", method, resp.StatusCode, resp.Header, answer)
		}
	}
}
