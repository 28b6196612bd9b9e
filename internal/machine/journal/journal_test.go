package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const initLine = `{"time":"2026-02-03T04:05:06Z","source":"hyperfleet-init","msg":"mounted"}`

func open(t *testing.T, dir string, limit int64) *Journal {
	t.Helper()
	j, err := Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func write(t *testing.T, j *Journal, s string) {
	t.Helper()
	if n, err := j.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("write: %d, %v", n, err)
	}
}

// drain returns what the reader gives until its end or, when it follows, until
// nothing is there.
func drain(t *testing.T, r *Reader, err error) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for {
		e, err := r.Poll()
		if errors.Is(err, io.EOF) || errors.Is(err, ErrWait) {
			return got
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, show(e))
	}
}

func show(e Entry) string {
	if e.Lost {
		return "gap"
	}
	flag := ""
	if e.Partial {
		flag = "+"
	}
	return string(e.Source) + ": " + string(e.Line) + flag
}

func all(t *testing.T, dir string, opts Options) []string {
	t.Helper()
	r, err := OpenReader(dir, opts)
	got := drain(t, r, err)
	r.Close()
	return got
}

func requireLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("read\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<20)
	j.Note("start\x1b[2Jed\nsession F forged")
	write(t, j, "one\r\ntw")
	write(t, j, "o\n\n"+initLine+"\r\n{\"time\":0,\"source\":\"other\"}\nlogin: ")
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j.Note("after the end")
	write(t, j, "after the end\n")
	note := "session: start [2Jed session F forged"
	other := `serial: {"time":0,"source":"other"}`
	requireLines(t, all(t, dir, Options{Tail: -1}), note, "serial: one\r", "serial: two", "serial: ", "init: "+initLine+"\r", other, "serial: login: +")
	requireLines(t, all(t, dir, Options{Tail: -1, Sources: []Source{Init, Session}}), note, "init: "+initLine+"\r")
	for n, want := range [][]string{nil, {"serial: login: +"}, {other, "serial: login: +"}} {
		requireLines(t, all(t, dir, Options{Tail: n, Sources: []Source{Serial}}), want...)
	}
	requireLines(t, all(t, dir, Options{Tail: 1, Sources: []Source{Session}}), note)
}

// A line of any length comes in pieces, and is no other source's in any of them.
func TestLongLines(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<20)
	long := strings.Repeat("x", 2*maxLine)
	write(t, j, long+initLine+"\nnext\n")
	requireLines(t, all(t, dir, Options{Tail: -1}), "serial: "+long[:maxLine]+"+", "serial: "+long[:maxLine]+"+", "serial: "+initLine, "serial: next")
	requireLines(t, all(t, dir, Options{Tail: 1}), "serial: next")
}

// What was written of the current line is there soon, and once.
func TestPrompt(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		j, err := Open(dir, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		write(t, j, "log")
		time.Sleep(flushAfter / 2)
		write(t, j, "in: ")
		requireLines(t, all(t, dir, Options{Tail: -1}))
		time.Sleep(flushAfter)
		synctest.Wait()
		write(t, j, "root\n")
		requireLines(t, all(t, dir, Options{Tail: -1}), "serial: login: +", "serial: root")
	})
}

func TestJournalStaysBounded(t *testing.T) {
	dir := t.TempDir()
	const limit = 256 << 10
	j := open(t, dir, limit)
	chunk := strings.Repeat("0123456789abcde\n", 2<<10)
	for range 64 {
		write(t, j, chunk)
	}
	var total int64
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > limit || total < limit/2 {
		t.Errorf("%d bytes are kept of a limit of %d", total, limit)
	}
	got := all(t, dir, Options{Tail: -1})
	for _, line := range got {
		if line != "serial: 0123456789abcde" {
			t.Fatalf("an entry is %q", line)
		}
	}
}

func TestJournalGoesOn(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<20)
	j.Note("first")
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	torn, err := os.OpenFile(filepath.Join(dir, newerName), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := torn.WriteString("2026-02-03T04:05:06.000000Z serial F to"); err != nil {
		t.Fatal(err)
	}
	torn.Close()
	requireLines(t, all(t, dir, Options{Tail: -1}), "session: first")
	j = open(t, dir, 1<<20)
	j.Note("second")
	requireLines(t, all(t, dir, Options{Tail: -1}), "session: first", "session: second")
	j.Close()
	for range 2 {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
	}
	requireLines(t, all(t, dir, Options{Tail: -1}))
}

// A reader that keeps up sees every line once, over many changes of files.
func TestFollowAcrossFiles(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 4<<10)
	var want []string
	for i := range 10 {
		j.Note("old %d", i)
		want = append(want, fmt.Sprintf("session: old %d", i))
	}
	r, err := j.Read(Options{Tail: -1, Follow: true})
	got := drain(t, r, err)
	for i := range 1000 {
		j.Note("line %d", i)
		want = append(want, fmt.Sprintf("session: line %d", i))
		if i%7 == 0 {
			got = append(got, drain(t, r, nil)...)
		}
	}
	j.Close()
	got = append(got, drain(t, r, nil)...)
	requireLines(t, got, want...)
	r.Close()
	r.Close()
}

// A reader that does not keep up finds one gap, and then all that is left.
func TestSlowFollower(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 4<<10)
	j.Note("first")
	r, err := j.Read(Options{Tail: -1, Follow: true, Sources: []Source{Session}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i := range 1000 {
		j.Note("line %d", i)
	}
	got := drain(t, r, nil)
	gap := slices.Index(got, "gap")
	if gap < 1 || got[0] != "session: first" || slices.Contains(got[gap+1:], "gap") {
		t.Fatalf("read %d lines, a gap at %d", len(got), gap)
	}
	kept := all(t, dir, Options{Tail: -1})
	requireLines(t, got[gap+1:], kept...)
	if got[len(got)-1] != "session: line 999" {
		t.Errorf("the last one is %q", got[len(got)-1])
	}
}

func TestFollowWaits(t *testing.T) {
	j := open(t, t.TempDir(), 1<<20)
	r, err := j.Read(Options{Tail: 0, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	type result struct {
		line string
		err  error
	}
	next := func(ctx context.Context) <-chan result {
		ch := make(chan result, 1)
		go func() {
			e, err := r.Next(ctx)
			ch <- result{show(e), err}
		}()
		return ch
	}
	waiting := next(t.Context())
	j.Note("event")
	if got := <-waiting; got.line != "session: event" || got.err != nil {
		t.Errorf("read %q, %v", got.line, got.err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	waiting = next(ctx)
	cancel(errors.New("enough"))
	if got := <-waiting; got.err == nil || got.err.Error() != "enough" {
		t.Errorf("a reader that has left: %v", got.err)
	}
	waiting = next(t.Context())
	j.Close()
	if got := <-waiting; !errors.Is(got.err, io.EOF) {
		t.Errorf("at the journal's end: %v", got.err)
	}
}

// The files of a deleted machine end its followers.
func TestFollowEndsWithTheFiles(t *testing.T) {
	dir := t.TempDir()
	j := open(t, dir, 1<<10)
	r, err := j.Read(Options{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 100 {
		j.Note("a line that fills the files, and so changes them")
	}
	j.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := r.Next(t.Context()); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// What cannot be written is counted, and the log stays readable.
func TestWriteSurvivesALostFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	j := open(t, dir, 1<<10)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		write(t, j, "some line of the console\n")
	}
	if j.size > j.half {
		t.Errorf("the lost file has %d bytes", j.size)
	}
}

func TestNilJournalTakesAll(t *testing.T) {
	var j *Journal
	j.Note("x")
	write(t, j, "x")
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-02-03T04:05:06.000000Z serial F x"))
	f.Add([]byte("2026-02-03T04:05:06.000000Z init P "))
	f.Add([]byte(" F "))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := parse(b)
		if !ok {
			return
		}
		again, ok := parse(e.appendTo(nil)[:len(e.appendTo(nil))-1])
		if !ok || show(again) != show(e) {
			t.Errorf("%q became %q", show(e), show(again))
		}
	})
}

// Whatever bytes a guest writes come back as they were, in whatever pieces.
func FuzzConsole(f *testing.F) {
	f.Add([]byte("one\ntwo\r\n\x00\xff"), 3)
	f.Add([]byte(strings.Repeat("x", 5000)), 4096)
	// One folder for all inputs, and no deadline in it: an input that takes
	// other branches each time, as the random name of a folder does, is a new
	// finding for the fuzzer, which then spends its time on making it smaller.
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		if err := Remove(dir); err != nil {
			t.Fatal(err)
		}
		j := open(t, dir, 16<<20)
		if cut < 0 || cut > len(b) {
			cut = len(b) / 2
		}
		write(t, j, string(b[:cut]))
		write(t, j, string(b[cut:]))
		j.Close()
		r, err := OpenReader(dir, Options{Tail: -1})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var back []byte
		for {
			e, err := r.Poll()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			back = append(back, e.Line...)
			if !e.Partial {
				back = append(back, '\n')
			}
		}
		if string(back) != string(b) {
			t.Errorf("%q became %q", b, back)
		}
	})
}
