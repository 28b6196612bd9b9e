package daemon

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hyperfleet/hyperfleet/internal/config"
)

func TestLogFormats(t *testing.T) {
	var out bytes.Buffer
	NewLogger(&out, config.Config{LogFormat: "text"}).Info("started", "machine", "m1")
	if !strings.HasPrefix(out.String(), "time=") || !strings.Contains(out.String(), "level=INFO msg=started machine=m1\n") {
		t.Errorf("text: %q", out.String())
	}
	out.Reset()
	log := NewLogger(&out, config.Config{LogFormat: "json", LogLevel: config.Level{Level: slog.LevelWarn}})
	log.Info("quiet")
	log.Warn("loud", "machine", "m1")
	var line struct{ Time, Level, Msg, Machine string }
	if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Time == "" || line.Level != "WARN" || line.Msg != "loud" || line.Machine != "m1" {
		t.Errorf("json: %q, %v", out.String(), err)
	}
}

func TestLogForJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "journal"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	cfg := config.Config{LogFormat: "text", JournalStream: fmt.Sprintf("%d:%d", st.Dev, st.Ino)}
	NewLogger(f, cfg).Warn("odd", "machine", "m1")
	b, err := os.ReadFile(f.Name())
	if want := "<4>level=WARN msg=odd machine=m1\n"; err != nil || string(b) != want {
		t.Errorf("%q, %v, want %q", b, err, want)
	}
}
