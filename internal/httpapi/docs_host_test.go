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
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/test/browser"
)

// The page works in a browser that reaches nothing but the daemon: it lists
// every operation, and "Try it out" creates a machine once a key was entered.
func TestDocsInABrowser(t *testing.T) {
	a := newAPI(t)
	_, secret, err := a.keys.Create(t.Context(), auth.LocalCaller(), auth.CreateRequest{Name: "page", Scopes: auth.Scopes{auth.MachinesWrite}})
	if err != nil {
		t.Fatal(err)
	}
	b := browser.Start(t)
	page := &http.Server{Handler: a.server.Handler(), ReadHeaderTimeout: time.Minute}
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
	const live = operation + ".live-responses-table tbody "
	b.Await(`document.querySelector("`+live+`.response-col_status")?.innerText.startsWith("401")`, nil)

	b.Click(".auth-wrapper .authorize")
	b.Type("#auth-bearer-value", secret.Reveal())
	b.Click(".auth-container:has(#auth-bearer-value) .authorize")
	b.Click(".auth-container .btn-done")
	b.Click(operation + ".execute")
	var body string
	b.Await(`document.querySelector("`+live+`.response-col_status")?.innerText.startsWith("201")`, nil)
	b.Await(`document.querySelector("`+live+`.highlight-code")?.innerText`, &body)
	machines, err := a.ListMachines(t.Context(), hyperfleet.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(machines) != 1 || machines[0].Name != "web" || !strings.Contains(body, machines[0].ID) {
		t.Errorf("the page shows %s; machines: %+v", body, machines)
	}
	shot := filepath.Join(t.ArtifactDir(), "docs.png")
	if err := os.WriteFile(shot, b.Screenshot(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log("screenshot:", shot)

	refused := func(s string) bool { return strings.Contains(s, "401") && strings.Contains(s, "/machines") }
	if trouble := slices.DeleteFunc(b.Trouble(), refused); len(trouble) > 0 {
		t.Errorf("the page complains: %q", trouble)
	}
	if elsewhere := b.Elsewhere(); len(elsewhere) > 0 {
		t.Errorf("the page asks other hosts: %q", elsewhere)
	}
}
