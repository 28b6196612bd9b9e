//go:build vm

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/busybox"
	"github.com/hyperfleet/hyperfleet/internal/image/imagetest"
	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// A run with logins, keys and secret environments, at the most talkative level,
// leaves none of them in the log, in any file of the daemon's, or in what the
// host tells of its processes.
func TestSecretsStaySecret(t *testing.T) {
	docker := imagetest.DockerRegistry(t)
	layout := filepath.Join(t.TempDir(), "layout")
	if err := busybox.WriteLayout(t.Context(), layout, busybox.Options{}); err != nil {
		t.Fatal(err)
	}
	ref := docker.Host + "/team/app:1"
	imagetest.Run(t, "skopeo", "copy", "--quiet", "--dest-tls-verify=false", "--dest-creds", docker.User+":"+docker.Password,
		"oci:"+layout, "docker://"+ref)

	h := hosttest.New(t, "HYPERFLEET_LOG_LEVEL=debug", "SSL_CERT_FILE="+docker.CertFile)
	secret := map[string]string{
		"the registry's password":        docker.Password,
		"the registry's login":           base64.StdEncoding.EncodeToString([]byte(docker.User + ":" + docker.Password)),
		"a wrong password":               rand.Text(),
		"a password at the wrong place":  rand.Text(),
		"the API key":                    rand.Text(),
		"a command's environment":        rand.Text(),
		"a command's input":              rand.Text(),
		"a streamed command's variable":  rand.Text(),
		"what a command says of its env": rand.Text(),
	}
	h.APIKey = secret["the API key"]
	key, err := h.CreateKey(t.Context(), hyperfleet.CreateKeyRequest{Name: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	secret["a key that the daemon made"] = key.Secret
	remote := &hyperfleet.Client{Host: h.URL(), APIKey: key.Secret}
	defer remote.CloseIdleConnections()
	if _, err := remote.ListMachines(t.Context(), hyperfleet.ListOptions{}); err != nil {
		t.Errorf("a key that the daemon made: %v", err)
	}
	right := &hyperfleet.RegistryAuth{Username: docker.User, Password: docker.Password}

	wrong := &hyperfleet.RegistryAuth{Username: docker.User, Password: secret["a wrong password"]}
	denied := failure{hyperfleet.ErrUnauthorized, "REGISTRY_UNAUTHORIZED", ""}
	_, err = h.PullImage(t.Context(), hyperfleet.PullRequest{Image: ref, RegistryAuth: wrong}, nil)
	denied.check(t, err)
	startFails(t, h, ref, denied, func(r *hyperfleet.CreateMachineRequest) { r.RegistryAuth = wrong })
	h.Env = append(h.Env, "HYPERFLEET_REGISTRY_PASSWORD="+docker.Password)
	if _, stderr, code := h.CLI("pull", "--username", docker.User, ref); code != 0 {
		t.Fatalf("pull: %s", stderr)
	}
	if status := post(t, h, "/machines", fmt.Sprintf(`{"name":"x","vcpu_count":1,"mem_size_mib":128,"image":%q,"registry_auth":{"username":"u","password":[%q]}}`, ref, secret["a password at the wrong place"])); status != 400 {
		t.Errorf("a password at the wrong place: %d", status)
	}

	m := h.Start("secrets", ref, func(r *hyperfleet.CreateMachineRequest) { r.RegistryAuth = right })
	res, err := h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{
		Command: []string{"sh", "-c", `test -n "$S" && test "$(cat | wc -c)" = 26 && echo seen`}, Env: map[string]string{"S": secret["a command's environment"]}, Stdin: secret["a command's input"],
	}, hyperfleet.IdempotencyKey("once"))
	if err != nil || res.Stdout != "seen\n" {
		t.Errorf("%+v, %v", res, err)
	}
	_, err = h.Exec(t.Context(), m.ID, hyperfleet.ExecRequest{
		Command: []string{"sh", "-c", `echo "$S" >&2; sleep 60`}, Env: map[string]string{"S": secret["what a command says of its env"]}, Timeout: 1,
	})
	if err == nil {
		t.Error("a command that takes too long succeeds")
	}
	requireSecret(t, h, secret)

	// While a streamed command runs with it, and after the daemon came back to it.
	started := &firstWrite{done: make(chan struct{})}
	detach := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := h.ExecStream(t.Context(), m.ID, hyperfleet.ExecRequest{
			Command: []string{"sh", "-c", "echo up; sleep 600"}, Env: map[string]string{"S": secret["a streamed command's variable"]},
		}, hyperfleet.ExecIO{Stdout: started, Detach: detach})
		ended <- err
	}()
	<-started.done
	requireSecret(t, h, secret)
	close(detach)
	<-ended
	h.KillDaemon()
	h.StartDaemon()
	requireSecret(t, h, secret)
	if _, err := h.StopMachine(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	requireSecret(t, h, secret)
	if !strings.Contains(h.Log(), "level=DEBUG msg=request") {
		t.Error("the log is not the whole one")
	}
}

// post sends a body as it stands, and returns the status of the answer.
func post(t *testing.T, h *hosttest.Host, path, body string) int {
	t.Helper()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", h.Run+"/api.sock")
	}}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://daemon"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.APIKey)
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// requireSecret looks for secrets wherever others may look.
func requireSecret(t *testing.T, h *hosttest.Host, secret map[string]string) {
	t.Helper()
	look := func(where string, content []byte) {
		for what, word := range secret {
			if bytes.Contains(content, []byte(word)) {
				t.Errorf("%s has %s", where, what)
			}
		}
	}
	look("the log", []byte(h.Log()))
	databases := 0
	for _, dir := range []string{h.State, h.Run} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			// A machine's disk is its guest's own, and nobody else's.
			if err != nil || !e.Type().IsRegular() || e.Name() == "disk.ext4" {
				return nil // gone meanwhile
			}
			b, err := os.ReadFile(path)
			if strings.Contains(e.Name(), ".db") && err == nil {
				databases++
			}
			look(path, b)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if databases < 2 {
		t.Errorf("%d files of the database were looked at, want it and its log", databases)
	}
	pids, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(pids) == 0 {
		t.Fatalf("processes: %v, %v", pids, err)
	}
	for _, p := range pids {
		if cmdline, err := os.ReadFile(p + "/cmdline"); err == nil {
			look(p+"/cmdline", cmdline)
		}
	}
	for _, vmm := range h.VMMs() {
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", vmm.PID))
		if err != nil {
			t.Error(err)
		}
		look("the environment of "+vmm.String(), environ)
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", h.DaemonPID()))
	if err != nil {
		t.Error(err)
	}
	if !bytes.Contains(environ, []byte("HYPERFLEET_STATE_DIR=")) {
		t.Errorf("the daemon's environment is %q", environ)
	}
}
