package systemd

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

func TestJournalHandlerLevels(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(JournalHandler(&out, func(w io.Writer) slog.Handler {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
	})).With("a", 1).WithGroup("g")
	log.Error("e", "b", 2)
	log.Warn("w")
	log.Info("i")
	log.Debug("d")
	want := "<3>level=ERROR msg=e a=1 g.b=2\n<4>level=WARN msg=w a=1\n<6>level=INFO msg=i a=1\n<7>level=DEBUG msg=d a=1\n"
	if out.String() != want {
		t.Errorf("%s\nwant\n%s", out.String(), want)
	}
	if log.Enabled(t.Context(), slog.LevelDebug-1) {
		t.Error("enabled below its level")
	}
}

// Lines of goroutines at a time are whole.
func TestJournalHandlerConcurrently(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(JournalHandler(&out, func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) }))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 100 {
				log.Log(t.Context(), slog.Level(4*(i%3)), "line")
			}
		})
	}
	wg.Wait()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 800 {
		t.Fatalf("%d lines, want 800", len(lines))
	}
	for _, line := range lines {
		if len(line) < 4 || !strings.Contains("<3> <4> <6>", line[:3]) || line[3] != '{' || line[len(line)-1] != '}' {
			t.Fatalf("line %q", line)
		}
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", st.Dev, st.Ino): true, fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false, "": false, "x": false,
	} {
		if got := IsJournal(f, stream); got != want {
			t.Errorf("%q: %v, want %v", stream, got, want)
		}
	}
}
