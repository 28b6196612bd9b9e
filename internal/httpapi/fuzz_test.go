package httpapi

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
)

func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 2, 'h', 'i', 4, 0, 0, 0, 0})
	f.Add([]byte{1, 0xff, 0, 0, 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		var again bytes.Buffer
		for {
			typ, payload, err := hyperfleet.ReadFrame(r, nil)
			if err != nil {
				break
			}
			if err := hyperfleet.WriteFrame(&again, typ, payload); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(raw, again.Bytes()) {
			t.Fatalf("%x was read as %x", raw, again.Bytes())
		}
	})
}

func FuzzJSONString(f *testing.F) {
	f.Add([]byte("plain \" \\ \x00\x7f\n\t\xff\xe2\x82"))
	f.Add([]byte("\u2028\U0001f600"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var out bytes.Buffer
		if err := writeJSONString(&out, &drops{raw}); err != nil {
			t.Fatal(err)
		}
		var got string
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatalf("%q: %v", out.Bytes(), err)
		}
		if want := strings.ToValidUTF8(string(raw), "\ufffd"); strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("%q became %q", raw, got)
		}
		out.Reset()
		if err := writeJSONBase64(&out, &drops{raw}); err != nil {
			t.Fatal(err)
		}
		var bin []byte
		if err := json.Unmarshal(out.Bytes(), &bin); err != nil || !bytes.Equal(bin, raw) {
			t.Fatalf("%q: %x, %v", out.Bytes(), bin, err)
		}
	})
}

// drops gives its bytes one by one.
type drops struct{ rest []byte }

func (d *drops) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	p[0], d.rest = d.rest[0], d.rest[1:]
	return 1, nil
}

// What our parser takes, encoding/json takes too, with the same result.
func FuzzFileUpload(f *testing.F) {
	f.Add([]byte(`{"path":"/f","content":"aGk=","mode":"644","x":[{"y":"}"},1.5e3,null]}`))
	f.Add([]byte(`{"content":"a\/\u0047k=" , "path":"/\u00e4"}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"path":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var content bytes.Buffer
		up, err := parseFileUpload(bytes.NewReader(raw), &content)
		if err != nil {
			return
		}
		var want struct {
			Path, Mode string
			Content    string
		}
		dec := map[string]json.RawMessage{}
		if err := json.Unmarshal(raw, &dec); err != nil {
			t.Fatalf("took %q: %v", raw, err)
		}
		_ = json.Unmarshal(dec["path"], &want.Path)
		_ = json.Unmarshal(dec["mode"], &want.Mode)
		if up.Path != want.Path || up.Mode != want.Mode {
			t.Fatalf("%q: %+v, want %+v", raw, up, want)
		}
	})
}
