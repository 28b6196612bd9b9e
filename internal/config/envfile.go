package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// maxEnvFile is far more bytes than all variables of ours need.
const maxEnvFile = 1 << 20

var assignment = regexp.MustCompile(`^(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*(.*)$`)

// readEnvFile reads the variables in a file. Whoever can write that file
// decides which programs the daemon runs: a file of another user, or one that
// others can write, is refused.
func readEnvFile(path string) (map[string]string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read environment file: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("read environment file %s: %w", path, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("environment file %s is no regular file", path)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("environment file %s belongs to uid %d, not to us: chown it", path, st.Uid)
	case st.Mode&0o022 != 0:
		return nil, fmt.Errorf("environment file %s can be written by others: chmod go-w it", path)
	case st.Size > maxEnvFile:
		return nil, fmt.Errorf("environment file %s is larger than %d bytes", path, maxEnvFile)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxEnvFile))
	if err != nil {
		return nil, fmt.Errorf("read environment file %s: %w", path, err)
	}
	vars, err := parseEnvFile(raw)
	if err != nil {
		return nil, fmt.Errorf("environment file %s: %w", path, err)
	}
	return vars, nil
}

// parseEnvFile reads lines of NAME=value: with an export before them or not,
// in quotes or not, with comments. Nothing is expanded. Its error tells of
// every wrong line, and repeats none, since it may hold a secret.
func parseEnvFile(raw []byte) (map[string]string, error) {
	vars, lines := map[string]string{}, map[string]int{}
	var errs []error
	number := 0
	for line := range bytes.Lines(raw) {
		number++
		text := strings.TrimSpace(string(line))
		if text == "" || text[0] == '#' {
			continue
		}
		m := assignment.FindStringSubmatch(text)
		if m == nil || strings.ContainsRune(text, 0) {
			errs = append(errs, fmt.Errorf("line %d: want NAME=value", number))
			continue
		}
		value, err := envValue(m[2])
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("line %d: %s: %w", number, m[1], err))
		case lines[m[1]] != 0:
			errs = append(errs, fmt.Errorf("line %d: %s is set on line %d already", number, m[1], lines[m[1]]))
		}
		vars[m[1]], lines[m[1]] = value, number
	}
	return vars, errors.Join(errs...)
}

// envValue takes quotes and a comment off a value. Within double quotes a
// backslash keeps the character behind it.
func envValue(s string) (string, error) {
	if s == "" || s[0] != '"' && s[0] != '\'' {
		if i := strings.Index(" "+s, " #"); i >= 0 {
			s = s[:max(i-1, 0)]
		}
		return strings.TrimSpace(s), nil
	}
	quote, value := s[0], strings.Builder{}
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quote == '"' && i+1 < len(s):
			i++
			value.WriteByte(s[i])
		case s[i] == quote:
			if rest := strings.TrimSpace(s[i+1:]); rest != "" && rest[0] != '#' {
				return "", errors.New("there is more behind the closing quote")
			}
			return value.String(), nil
		default:
			value.WriteByte(s[i])
		}
	}
	return "", errors.New("the quote is not closed")
}
