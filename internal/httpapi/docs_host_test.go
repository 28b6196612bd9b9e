//go:build host

package httpapi

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/test/browser"
)

// The page works in a browser that reaches nothing but the daemon: it lists
// every operation, and "Try it out" creates a machine.
func TestDocsInABrowser(t *testing.T) {
	a := newAPI(t)
	b := browser.Start(t)
	page := &http.Server{Handler: a.server.LoopbackHandler(), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- page.Serve(b.Listener) }()
	t.Cleanup(func() {
		page.Close()
		<-served
	})

	b.Navigate("/docs")
	b.Await(`document.documentElement.dataset.loaded`, nil)
	var listed []string
	b.Await(`(all => all.length && all)([...document.querySelectorAll(".opblock")].map(e => e.id.split("-").pop()))`, &listed)
	var want []string
	for _, item := range a.server.api.OpenAPI().Paths {
		for _, op := range operationsOf(item) {
			want = append(want, op.OperationID)
		}
	}
	slices.Sort(listed)
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("the page lists %q, want %q", listed, want)
	}

	const operation = "#operations-machines-createMachine "
	b.Click(operation + ".opblock-summary-control")
	b.Click(operation + ".try-out__btn")
	b.Click(operation + ".execute")
	const live = operation + ".live-responses-table "
	var status, body string
	b.Await(`document.querySelector("`+live+`tbody .response-col_status")?.innerText`, &status)
	b.Await(`document.querySelector("`+live+`tbody .highlight-code")?.innerText`, &body)
	machines, err := a.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(status, "201") || len(machines) != 1 || machines[0].Name != "web" || !strings.Contains(body, machines[0].ID) {
		t.Errorf("the page shows %s %s; machines: %+v", status, body, machines)
	}
	shot := filepath.Join(t.ArtifactDir(), "docs.png")
	if err := os.WriteFile(shot, b.Screenshot(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log("screenshot:", shot)

	if trouble := b.Trouble(); len(trouble) > 0 {
		t.Errorf("the page complains: %q", trouble)
	}
	if elsewhere := b.Elsewhere(); len(elsewhere) > 0 {
		t.Errorf("the page asks other hosts: %q", elsewhere)
	}
}
