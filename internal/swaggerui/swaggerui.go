// Package swaggerui is the API's page for people: Swagger UI, served from the
// binary and talking to nobody but the server that it came from.
//
// Of the embedded distribution it takes the script and the style sheet; the
// page around them is our own, without a line of script or style in it, so
// that the Content-Security-Policy can refuse all of that.
package swaggerui

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/swaggest/swgui/v5/static"
)

// policy lets the page load from and talk to its own origin only. Swagger UI
// draws with images that are in its style sheet, hence data:.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.js
	pageJS []byte
	//go:embed page.css
	pageCSS []byte
)

// asset is one file of the page.
type asset struct {
	contentType string
	own         []byte // or
	packed      string // the gzipped file of the distribution
}

const (
	javaScript = "text/javascript; charset=utf-8"
	styleSheet = "text/css; charset=utf-8"
)

var assets = map[string]asset{
	"page.js":              {javaScript, pageJS, ""},
	"page.css":             {styleSheet, pageCSS, ""},
	"swagger-ui-bundle.js": {javaScript, nil, "swagger-ui-bundle.js.gz"},
	"swagger-ui.css":       {styleSheet, nil, "swagger-ui.css.gz"},
	"favicon-32x32.png":    {"image/png", nil, "favicon-32x32.png"},
}

// Page serves the page at base, for example "/docs", with or without a slash
// at its end. The OpenAPI document is expected at base/json, Asset at
// base/assets/{name}.
func Page(base string) http.Handler {
	last := base[strings.LastIndexByte(base, '/')+1:]
	bare, slashed := pageWith(last+"/"), pageWith("./")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secure(w.Header())
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", policy)
		page := bare
		if path, _, _ := strings.Cut(r.RequestURI, "?"); strings.HasSuffix(path, "/") {
			page = slashed
		}
		_, _ = io.WriteString(w, page) // the caller is gone if this fails
	})
}

// pageWith is the page whose links are relative to base, so that it also works
// behind a proxy that adds a prefix.
func pageWith(base string) string { return strings.Replace(pageHTML, "BASE", base, 1) }

func secure(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-cache") // another version of the daemon has other files
}

// Asset serves the file of the page that the path value "name" names, and
// reports false, with nothing written, when there is none.
func Asset(w http.ResponseWriter, r *http.Request) bool {
	a, ok := assets[r.PathValue("name")]
	if !ok {
		return false
	}
	content, packed, err := a.read(strings.Contains(r.Header.Get("Accept-Encoding"), "gzip"))
	if err != nil {
		return false
	}
	secure(w.Header())
	w.Header().Set("Content-Type", a.contentType)
	if a.packed != "" {
		w.Header().Set("Vary", "Accept-Encoding")
	}
	if packed {
		w.Header().Set("Content-Encoding", "gzip")
	}
	_, _ = w.Write(content) // the caller is gone if this fails
	return true
}

// read returns the file as it is sent, and whether that is gzipped.
func (a asset) read(takesGzip bool) (content []byte, packed bool, err error) {
	if a.packed == "" {
		return a.own, false, nil
	}
	if content, err = static.FS.ReadFile(a.packed); err != nil {
		return nil, false, fmt.Errorf("read %s of Swagger UI: %w", a.packed, err)
	}
	if packed = strings.HasSuffix(a.packed, ".gz"); !packed || takesGzip {
		return content, packed, nil
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(content))
	if err == nil {
		content, err = io.ReadAll(unpacked)
	}
	if err != nil {
		return nil, false, fmt.Errorf("unpack %s of Swagger UI: %w", a.packed, err)
	}
	return content, false, nil
}
