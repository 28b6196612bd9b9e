package console

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestRecordStaysBounded(t *testing.T) {
	dir := t.TempDir()
	const limit = 1 << 20
	r := open(t, dir, limit)
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 2<<10)
	for written := 0; written < 64*limit; written += len(chunk) {
		if n, err := r.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	r.Write([]byte("the end"))
	var total int64
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		total += info.Size()
	}
	if total > limit {
		t.Errorf("%d bytes are kept", total)
	}
	got := read(t, r)
	if len(got) < limit/2 || !strings.HasSuffix(got, "\nthe end") {
		t.Errorf("%d bytes, ending in %q", len(got), got[max(0, len(got)-20):])
	}
}

func TestRecordGoesOn(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, 1<<10)
	r.Write([]byte("first "))
	must(t, r.Close())
	must(t, r.Close())
	r.Write([]byte("lost: it is closed"))
	if got := read(t, r); got != "first " {
		t.Errorf("a closed record holds %q", got)
	}
	again := open(t, dir, 1<<10)
	again.Write([]byte("second"))
	if got := read(t, again); got != "first second" {
		t.Errorf("record holds %q", got)
	}
	must(t, again.Close())
	for range 2 {
		must(t, Remove(dir))
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) != 0 {
		t.Errorf("%v are left", left)
	}
}

func TestSnapshotKeepsOrderAcrossFiles(t *testing.T) {
	r := open(t, t.TempDir(), 200)
	var all strings.Builder
	for i := range 60 {
		line := fmt.Sprintf("line %02d\n", i)
		all.WriteString(line)
		r.Write([]byte(line))
		if got := read(t, r); !strings.HasSuffix(all.String(), got) || len(got) > 200 {
			t.Fatalf("after line %d the record holds %q", i, got)
		}
	}
}

func TestWriteSurvivesALostFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	must(t, os.Mkdir(dir, 0o700))
	r := open(t, dir, 100)
	must(t, os.RemoveAll(dir))
	for range 10 {
		if n, err := r.Write(make([]byte, 30)); n != 30 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
}

func TestLastLine(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"nothing", "", ""},
		{"blank", "\n \r\n\t\n", ""},
		{"last", "one\ntwo\n\n", "two"},
		{"time stamp", "[    1.234567] Run /init as init process\r\n", "Run /init as init process"},
		{"caller", "[    1.234567][    T1] Freeing memory", "Freeing memory"},
		{"error before", "mount: error 5\ndone\n", "mount: error 5"},
		{"panic before its trace", "[ 1.0] Kernel panic - not syncing: no init\n[ 1.1] CPU: 0 error\n[ 1.2] Rebooting in 1 seconds..\n", "Kernel panic - not syncing: no init"},
		{"panic and its frame", "Kernel panic - not syncing: x\n---[ end Kernel panic - not syncing: x ]---\n", "Kernel panic - not syncing: x"},
		{"no PCI bus", "one\n[ 0.5] PCI: Fatal: No config space access function found\n", "one"},
		{"escapes", "\x1b[31mred \x1b[0malarm\x07\n", "red alarm"},
		{"bad text", "caf\xff\xfe\x00e\n", "cafe"},
		{"long", strings.Repeat("é", 500), strings.Repeat("é", 240) + "..."},
	} {
		if got := LastLine([]byte(c.in)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzLastLine(f *testing.F) {
	f.Add([]byte("[    0.1] Kernel panic - not syncing\n\x1b[0m"))
	f.Add([]byte("\x1b\x1b[[[\xff\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		line := LastLine(b)
		if utf8.RuneCountInString(line) > maxLine+3 {
			t.Errorf("line of %d runes", utf8.RuneCountInString(line))
		}
		for _, r := range line {
			if !unicode.IsPrint(r) {
				t.Errorf("line holds %q", r)
			}
		}
	})
}

func open(t *testing.T, dir string, limit int64) *Record {
	t.Helper()
	r, err := OpenRecord(dir, limit)
	must(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func read(t *testing.T, r *Record) string {
	t.Helper()
	f, err := r.Snapshot()
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return string(b)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
