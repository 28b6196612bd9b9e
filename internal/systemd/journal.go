package systemd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// IsJournal reports whether f is the stream that stream ($JOURNAL_STREAM,
// "device:inode") names: then systemd-journald reads it.
func IsJournal(f *os.File, stream string) bool {
	var st unix.Stat_t
	if stream == "" || unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	return stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// JournalHandler is a handler whose lines begin with "<level>", which journald
// takes off, so that journalctl -p finds warnings. newHandler makes the handler
// that writes the rest of each line, in one Write.
func JournalHandler(w io.Writer, newHandler func(io.Writer) slog.Handler) slog.Handler {
	var mu sync.Mutex
	h := make(byLevel, len(priorities))
	for i, p := range priorities {
		h[i] = newHandler(&prefixed{mu: &mu, w: w, prefix: p.prefix})
	}
	return h
}

// priorities are those of syslog(3), the most severe first.
var priorities = []struct {
	from   slog.Level
	prefix string
}{
	{slog.LevelError, "<3>"}, {slog.LevelWarn, "<4>"}, {slog.LevelInfo, "<6>"}, {slog.LevelDebug, "<7>"},
}

// byLevel has one handler for each of priorities.
type byLevel []slog.Handler

func (h byLevel) of(level slog.Level) slog.Handler {
	for i, p := range priorities {
		if level >= p.from {
			return h[i]
		}
	}
	return h[len(h)-1]
}

func (h byLevel) Enabled(ctx context.Context, level slog.Level) bool {
	return h.of(level).Enabled(ctx, level)
}

func (h byLevel) Handle(ctx context.Context, r slog.Record) error {
	return h.of(r.Level).Handle(ctx, r)
}

func (h byLevel) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.with(func(one slog.Handler) slog.Handler { return one.WithAttrs(attrs) })
}

func (h byLevel) WithGroup(name string) slog.Handler {
	return h.with(func(one slog.Handler) slog.Handler { return one.WithGroup(name) })
}

func (h byLevel) with(f func(slog.Handler) slog.Handler) slog.Handler {
	out := make(byLevel, len(h))
	for i, one := range h {
		out[i] = f(one)
	}
	return out
}

// prefixed writes each line with a prefix, and one at a time.
type prefixed struct {
	mu     *sync.Mutex
	w      io.Writer
	prefix string
}

func (p *prefixed) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, err := p.w.Write(append([]byte(p.prefix), line...))
	return max(0, n-len(p.prefix)), err
}
