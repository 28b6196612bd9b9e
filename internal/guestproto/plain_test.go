package guestproto

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"
)

// newPlain makes an empty message of each kind that is read without package json.
var newPlain = []func() any{
	func() any { return &Clock{} },
	func() any { return &Boot{} },
	func() any { return &ExecStart{} },
	func() any { return &ExecRelease{} },
}

// Whatever is decoded without package json, package json decodes likewise.
func FuzzPlainDecode(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"unix_nano":1700000000000000000}`, `{"unix_nano":-5}`, `{"unix_nano":01}`, `{"unix_nano":1.5}`, `{"unix_nano":9223372036854775808}`, `{"unix_nano":9223372036854775807}`, `{"unix_nano":123456789012345678901}`,
		`{"hostname":"box","overlay":true,"volumes":["/data"],"network":{"address":"10.0.2.15/24","gateway":"10.0.2.2","dns":["10.0.2.3"]},"env":["A=b"],"work_dir":"/w","user":"root"}`,
		`{"network":{"address":"a"},"network":{"gateway":"b"}}`, `{"network":null}`, `{"env":null}`, `{"env":[]}`, `{"env":["a","b"],"env":["c"]}`,
		`{"id":"x","argv":["sh","-c","exit 7"],"stdin":true,"timeout_ms":5}`, `{"ID":"x"}`, `{"argv":[{"base64":"/w=="}]}`, `{"argv":["\u00e9","é"]}`,
		`{"ids":["a","b"]}`, `{"ids":["a",]}`, `{"ids":["a"],}`, `{"ids":["a"]} `, `{"ids":["a"]}{}`, `{"id":"a`, `[`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, empty := range newPlain {
			got, want := empty(), empty()
			p := &plain{rest: raw}
			got.(plainDecoder).decodePlain(p)
			if !p.done() {
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%T of %q: changed by a failure: %+v", got, raw, got)
				}
				continue
			}
			if err := json.Unmarshal(raw, want); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%T of %q: %+v; package json: %+v, %v", got, raw, got, want, err)
			}
		}
	})
}

// Whatever is encoded without package json, package json encodes likewise.
func FuzzPlainEncode(f *testing.F) {
	f.Add("v1.2.3", "6.1.0", 0, int64(0), int64(5), false)
	f.Add("", "<&>", -1, int64(-3), int64(1)<<62, true)
	f.Add("SIGKILL", "", 137, int64(1), int64(2), true)
	f.Fuzz(func(t *testing.T, a, b string, code int, x, y int64, yes bool) {
		for _, m := range []plainEncoder{
			Empty{}, Ready{InitVersion: a, Kernel: b}, ExecStarted{Stdin: x, Stdout: y, Stderr: x},
			ExecExit{Code: code, Signal: a, TimedOut: yes, Stdout: x, Stderr: y},
		} {
			want, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if got := m.appendPlain(nil); got != nil && !bytes.Equal(got, want) {
				t.Errorf("%+v: %s; package json: %s", m, got, want)
			}
		}
	})
}

// TestPlainTakesWhatWeWrite: the way around package json is the usual one.
func TestPlainTakesWhatWeWrite(t *testing.T) {
	for _, m := range []any{
		&Clock{UnixNano: 1_700_000_000_000_000_000},
		&Boot{
			Hostname: "box", Overlay: true, Volumes: []Text{"/data"}, Env: []Text{"PATH=/bin:/usr/bin"}, WorkDir: "/", User: "1:2",
			Network: &BootNetwork{Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}},
		},
		&ExecStart{ID: "a-1", Argv: []Text{"sh", "-c", "exit 7"}, Env: []Text{"A=b"}, WorkDir: "/w", User: "u", Stdin: true, TimeoutMillis: 9},
		&ExecRelease{IDs: []string{"a", "b"}},
	} {
		raw, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		p := &plain{rest: raw}
		got.(plainDecoder).decodePlain(p)
		if !p.done() || !reflect.DeepEqual(got, m) {
			t.Errorf("%s: %+v, failed %t, %q left", raw, got, p.failed, p.rest)
		}
	}
	for _, m := range []plainEncoder{Ready{InitVersion: "v1", Kernel: "6.1"}, ExecExit{Signal: "SIGKILL"}, ExecStarted{}, Empty{}} {
		if m.appendPlain(nil) == nil {
			t.Errorf("%+v is not plain", m)
		}
	}
}
