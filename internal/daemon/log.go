package daemon

import (
	"io"
	"log/slog"
	"os"

	"github.com/hyperfleet/hyperfleet/internal/config"
	"github.com/hyperfleet/hyperfleet/internal/systemd"
)

// NewLogger writes one line for each record, in the configured format. Where
// journald reads w, a line begins with its level for it, and leaves out the
// time, which journald knows.
func NewLogger(w io.Writer, cfg config.Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.LogLevel.Level}
	newHandler := func(w io.Writer) slog.Handler {
		if cfg.LogFormat == "json" {
			return slog.NewJSONHandler(w, opts)
		}
		return slog.NewTextHandler(w, opts)
	}
	if f, ok := w.(*os.File); !ok || !systemd.IsJournal(f, cfg.JournalStream) {
		return slog.New(newHandler(w))
	}
	opts.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
	return slog.New(systemd.JournalHandler(w, newHandler))
}
