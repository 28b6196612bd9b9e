package console

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

// maxLine bounds a line that goes into an error message, in runes.
const maxLine = 240

var (
	// Terminal control sequences: ECMA-48 5.4, and two-character escapes.
	escapes = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|[@-Z\\-_])`)
	// A kernel's time stamp, and the level where it prints one.
	stamp = regexp.MustCompile(`^(<\d>)?\[ *\d+\.\d+\](\[ *[TC]\d+\])? ?`)
	// The frame round a panic says nothing that the panic itself does not.
	frame = regexp.MustCompile(`^---\[ |^Rebooting in `)
	// Linux says so on every machine without a PCI bus, which is no error here.
	harmless = regexp.MustCompile(`^PCI: Fatal: No config space access function found$`)
	worse    = regexp.MustCompile(`(?i)\b(error|fatal|failed|panic|cannot|could not|unable to)\b`)
)

// LastLine finds in console output the line that tells most about how it came
// to an end: the last kernel panic, else the last line that speaks of an error,
// else the last line that is not empty. Time stamps and control characters are
// dropped, and the length is bounded.
func LastLine(output []byte) string {
	var last, bad string
	for raw := range bytes.SplitSeq(output, []byte{'\n'}) {
		line := clean(raw)
		switch {
		case line == "":
			continue
		case strings.Contains(line, "Kernel panic") && !frame.MatchString(line):
			bad = line
		case strings.Contains(bad, "Kernel panic"):
			continue // what follows a panic is its trace
		case harmless.MatchString(line):
			continue
		case worse.MatchString(line) && !frame.MatchString(line):
			bad = line
		}
		last = line
	}
	if bad != "" {
		return bad
	}
	return last
}

func clean(raw []byte) string {
	s := strings.ToValidUTF8(string(escapes.ReplaceAll(raw, nil)), "")
	s = strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(stamp.ReplaceAllString(strings.TrimSpace(s), ""))
	if runes := []rune(s); len(runes) > maxLine {
		s = string(runes[:maxLine]) + "..."
	}
	return s
}
