package daemon

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/store"
	"github.com/hyperfleet/hyperfleet/internal/store/reference/referencetest"
)

// configured makes cfg's folders those of the environment.
func configured(t *testing.T, cfg config.Config) {
	t.Helper()
	t.Setenv("HYPERFLEET_STATE_DIR", cfg.StateDir)
	t.Setenv("HYPERFLEET_RUN_DIR", cfg.RunDir)
}

func outcomes(r ImportReport) string {
	var list []string
	for _, row := range r.Rows {
		list = append(list, row.Kind+" "+row.Name+" "+row.Outcome)
	}
	return strings.Join(list, ", ")
}

// A fleet of the reference goes on here: keys open what they opened, machines
// are there with their ids, and a second import changes nothing.
func TestImportReference(t *testing.T) {
	cfg := settings(t)
	configured(t, cfg)
	file := referencetest.New(t, referencetest.Schema, referencetest.Rows)
	report, err := ImportReference(t.Context(), ImportRequest{File: file})
	if err != nil || !report.Done {
		t.Fatalf("%+v, %v", report, err)
	}
	if got, want := outcomes(report), "machine web imported, machine bare imported, key all imported, key old imported, key gone imported"; got != want {
		t.Errorf("outcomes %s, want %s", got, want)
	}
	report, err = ImportReference(t.Context(), ImportRequest{File: file})
	if err != nil || !report.Done || strings.Count(outcomes(report), "already there") != 5 {
		t.Errorf("second import: %s, %v", outcomes(report), err)
	}
	raw, err := os.ReadFile(cfg.Database)
	if err != nil || strings.Contains(string(raw), "registry-secret") {
		t.Errorf("a registry's password is in the database (%v)", err)
	}

	serve(t, cfg)
	c := &hyperfleet.Client{Host: "unix://" + cfg.Socket()}
	defer c.CloseIdleConnections()
	m, err := c.Machine(t.Context(), "a1b2c3d4e5f6")
	if err != nil || m.Status != hyperfleet.StatusStopped || m.Name != "web" || m.VCPUCount != 2 || len(m.ExposedPorts) != 2 {
		t.Errorf("machine %+v, %v", m, err)
	}
	if _, err := ImportReference(t.Context(), ImportRequest{File: file}); err == nil || !strings.Contains(err.Error(), "another hyperfleet daemon") {
		t.Errorf("import beside a daemon: %v", err)
	}
}

// The keys that were imported are asked as a daemon asks them.
func TestImportedKeysAuthenticate(t *testing.T) {
	cfg := settings(t)
	configured(t, cfg)
	if _, err := ImportReference(t.Context(), ImportRequest{File: referencetest.New(t, referencetest.Schema, referencetest.Rows)}); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), cfg.Database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ring, err := auth.Open(t.Context(), db, auth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ring.Close()
	for letter, opens := range map[string]bool{"a": true, "b": false, "c": false, "d": false} {
		caller, err := ring.Authenticate(auth.Secret("hf_" + strings.Repeat(letter, 32)))
		if (err == nil) != opens || opens && (caller.KeyID != "V1StGXR8_Z5j" || !caller.Scopes.Allows(auth.MachinesExec)) {
			t.Errorf("key %s: %+v, %v", letter, caller, err)
		}
	}
}

// A daemon on imported state opens its port to who has a key of the reference,
// and to nobody with one that has expired or was revoked.
func TestImportedKeysOpenThePort(t *testing.T) {
	cfg := settings(t)
	configured(t, cfg)
	if _, err := ImportReference(t.Context(), ImportRequest{File: referencetest.New(t, referencetest.Schema, referencetest.Rows)}); err != nil {
		t.Fatal(err)
	}
	serve(t, cfg)
	for letter, want := range map[string]int{"a": http.StatusOK, "b": http.StatusUnauthorized, "c": http.StatusUnauthorized, "d": http.StatusUnauthorized} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.LoopbackAddress()+"/machines", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer hf_"+strings.Repeat(letter, 32))
		req.Close = true
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || strings.Contains(string(body), "a1b2c3d4e5f6") != (want == http.StatusOK) {
			t.Errorf("key %s: %d, want %d: %s, %v", letter, resp.StatusCode, want, body, err)
		}
	}
}

// An invalid row is the end of an import, which leaves nothing behind; left
// out on request, the others come over.
func TestImportReferenceWithInvalidRows(t *testing.T) {
	cfg := settings(t)
	configured(t, cfg)
	file := referencetest.New(t, referencetest.Schema, referencetest.Rows, "UPDATE machines SET vcpu_count = 1000 WHERE name = 'bare'")
	report, err := ImportReference(t.Context(), ImportRequest{File: file})
	if err != nil || report.Done || !strings.Contains(outcomes(report), "machine web valid, machine bare invalid, key all valid") {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := os.Stat(cfg.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an import that did nothing has made the state folder: %v", err)
	}
	report, err = ImportReference(t.Context(), ImportRequest{File: file, SkipInvalid: true})
	if err != nil || !report.Done || !strings.Contains(outcomes(report), "machine web imported, machine bare invalid, key all imported") {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := ImportReference(t.Context(), ImportRequest{File: cfg.Database}); err == nil || !strings.Contains(err.Error(), "no database of the reference") {
		t.Errorf("our own database: %v", err)
	}
}
