package journal

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"
	"unicode"
)

// Source is where an entry comes from.
type Source string

// The sources; the package comment tells them apart.
const (
	Serial  Source = "serial"
	Init    Source = "init"
	Session Source = "session"
)

// maxLine bounds the content of an entry, in bytes; longer lines come in
// pieces.
const maxLine = 4096

// Entry is a line of the log, or a piece of one.
type Entry struct {
	Time    time.Time
	Source  Source
	Line    []byte // without its newline; valid until the next entry is read
	Partial bool   // the rest of the line follows in another entry
	Lost    bool   // this is no entry but a gap: some before the next one are gone
}

// stampLayout is RFC 3339 with as many digits for every time.
const stampLayout = "2006-01-02T15:04:05.000000Z07:00"

// appendTo adds the entry's form on disk to b.
func (e Entry) appendTo(b []byte) []byte {
	b = e.Time.UTC().AppendFormat(b, stampLayout)
	b = append(b, ' ')
	b = append(b, e.Source...)
	if e.Partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, e.Line...)
	return append(b, '\n')
}

// parse reads what appendTo wrote, without its newline.
func parse(b []byte) (Entry, bool) {
	stamp, rest, ok := bytes.Cut(b, []byte{' '})
	source, rest, ok2 := bytes.Cut(rest, []byte{' '})
	flag, line, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok2 || !ok3 || len(flag) != 1 || flag[0] != 'F' && flag[0] != 'P' {
		return Entry{}, false
	}
	at, err := time.Parse(stampLayout, string(stamp))
	if err != nil {
		return Entry{}, false
	}
	e := Entry{Time: at, Source: Source(source), Line: line, Partial: flag[0] == 'P'}
	return e, e.Source == Serial || e.Source == Init || e.Source == Session
}

// initName is what hyperfleet-init calls itself in its log lines (package
// initd, console.go).
const initName = "hyperfleet-init"

// sourceOf tells init's own lines from all others of the console.
func sourceOf(line []byte) Source {
	if !bytes.HasPrefix(line, []byte(`{"time":`)) {
		return Serial
	}
	var l struct {
		Source string `json:"source"`
	}
	if json.Unmarshal(bytes.TrimRight(line, "\r"), &l) != nil || l.Source != initName {
		return Serial
	}
	return Init
}

// printable makes one line of text that a terminal does not obey.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > maxLine {
		text = strings.ToValidUTF8(text[:maxLine], "")
	}
	return text
}
