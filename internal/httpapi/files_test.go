package httpapi

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestFilesStream(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	content := bytes.Repeat([]byte{0, 1, 0xff, 'x'}, 1<<20)
	if n, err := a.WriteFile(t.Context(), id, "/big", 0o751, bytes.NewReader(content)); err != nil || n != int64(len(content)) {
		t.Fatalf("write: %d, %v", n, err)
	}
	r, info, err := a.ReadFile(t.Context(), id, "/big")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	r.Close()
	if err != nil || !bytes.Equal(got, content) || info.Size != int64(len(content)) || info.Mode != "751" {
		t.Errorf("read %d bytes of %+v, %v", len(got), info, err)
	}
}

// A body that breaks off leaves the old file.
func TestUploadThatBreaks(t *testing.T) {
	a := newAPI(t)
	id := a.running().ID
	if _, err := a.WriteFile(t.Context(), id, "/f", 0o644, strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(strings.NewReader("new"), iotestErr{})
	if _, err := a.WriteFile(t.Context(), id, "/f", 0o644, broken); err == nil {
		t.Error("no error")
	}
	_, body := a.ask("GET", "/machines/"+id+"/files?path=/f", "")
	if !strings.Contains(body, `"b2xk"`) {
		t.Errorf("file is %s", body)
	}
}

type iotestErr struct{}

func (iotestErr) Read([]byte) (int, error) { return 0, errors.New("broken source") }

func TestUploadLimit(t *testing.T) {
	a := newAPI(t, func(c *Config) { c.FileMaxSize = 10 })
	id := a.running().ID
	_, body := a.ask("POST", "/machines/"+id+"/files", `{"content":"AAAAAAAAAAAAAAAAAAAA","path":"/f"}`)
	if !strings.Contains(body, `"message":"File too large: 15 bytes (max 10)"`) {
		t.Error(body)
	}
	huge := `{"path":"/f","content":"` + strings.Repeat("AAAA", 1<<20) + `"}`
	if resp, body := a.ask("POST", "/machines/"+id+"/files", huge); resp.StatusCode != 413 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// A client that sends its body by drops is cut off.
func TestSlowBody(t *testing.T) {
	var set []time.Duration
	ctl := deadlines{&set}
	body := newSlowBody(ctl, io.NopCloser(strings.NewReader("12345678")))
	if _, err := io.ReadAll(body); err != nil {
		t.Fatal(err)
	}
	if len(set) == 0 || set[0] <= 0 || set[0] > bodyStall || set[len(set)-1] != 0 {
		t.Errorf("deadlines %v", set)
	}
}

type deadlines struct{ set *[]time.Duration }

func (deadlines) Header() http.Header         { return nil }
func (deadlines) Write(p []byte) (int, error) { return len(p), nil }
func (deadlines) WriteHeader(int)             {}
func (d deadlines) SetReadDeadline(t time.Time) error {
	left := time.Duration(0)
	if !t.IsZero() {
		left = time.Until(t)
	}
	*d.set = append(*d.set, left)
	return nil
}

// A handler that takes its time between two reads does not spend the client's.
func TestSlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set []time.Duration
		body := newSlowBody(deadlines{&set}, io.NopCloser(strings.NewReader("12345678")))
		for range 2 {
			if _, err := body.Read(make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour)
		}
		if len(set) != 4 || set[2] != bodyStall {
			t.Errorf("deadlines %v", set)
		}
	})
}

// A client that waits longer than its bytes are worth is cut off.
func TestTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var set []time.Duration
		body := newSlowBody(deadlines{&set}, io.NopCloser(trickle{}))
		for range 4 {
			if _, err := body.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		if last := set[len(set)-2]; last > 0 {
			t.Errorf("a fourth byte after a minute gets %v", last)
		}
	})
}

// trickle gives a byte each 20 seconds.
type trickle struct{}

func (trickle) Read(p []byte) (int, error) {
	<-time.After(20 * time.Second)
	return copy(p, "x"), nil
}
