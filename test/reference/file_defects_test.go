//go:build vm

package reference

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet/test/hosttest"
)

// A file of the largest size goes through the JSON calls without ever being
// held whole by the daemon; what is no base64 is refused; a missing file is a
// missing file.
func TestDefect31FilesAreStreamed(t *testing.T) {
	h, image := hosttest.NewWithImage(t)
	w := newWire(t, h, "")
	m := w.running("files", image)
	path := "/machines/" + m.ID + "/files"
	const size = 100 << 20 // HYPERFLEET_FILE_MAX_SIZE
	h.ResetRSS()
	before := h.DaemonRSS()
	if status, body := w.upload(path, "/root/big", size); status != 200 {
		t.Fatalf("upload of the largest file: status %d: %s", status, body)
	}
	if got := w.exec(m.ID, "wc", "-c", "/root/big"); !strings.Contains(got.Stdout, fmt.Sprint(size)) {
		t.Errorf("it arrived as %q", got.Stdout)
	}
	grown := h.DaemonRSS() - before
	t.Logf("daemon grew by %d KiB for a file of %d MiB", grown>>10, size>>20)
	if grown > 64<<20 {
		t.Errorf("daemon grew by %d MiB", grown>>20)
	}
	if status, body := w.upload(path, "/root/bigger", size+1); status != 400 || !strings.Contains(body, "File too large") {
		t.Errorf("upload of a larger file: status %d: %s", status, body)
	}
	w.post(path, `{"path":"/root/garbage","content":"*** no base64 ***"}`).want(400)
	w.get(path+"/stat?path=/root/garbage").refused(404, "NotFoundError", "")
	w.get(path+"?path=/no/such/file").refused(404, "NotFoundError", "")
	w.delete(path+"?path=/no/such/file").refused(404, "NotFoundError", "")
}

// upload sends size bytes in a JSON body that is made as it is sent.
func (w wire) upload(path, name string, size int64) (status int, body string) {
	w.t.Helper()
	r, out := io.Pipe()
	go func() {
		b := bufio.NewWriter(out)
		fmt.Fprintf(b, `{"path":%q,"content":"`, name)
		enc := base64.NewEncoder(base64.StdEncoding, b)
		_, err := io.Copy(enc, io.LimitReader(zeros{}, size))
		enc.Close()
		fmt.Fprint(b, `"}`)
		b.Flush()
		out.CloseWithError(err)
	}()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.base+path, r)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+w.key)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
