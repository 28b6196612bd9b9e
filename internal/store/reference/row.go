package reference

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// row reads one row. SQLite keeps what it is given whatever a column's type is:
// each value's type is looked at. After a value that is wrong the others are
// read on; err tells of all.
type row struct {
	values map[string]any
	notes  []string
	err    error
}

func (r *row) fail(format string, args ...any) {
	r.err = errors.Join(r.err, fmt.Errorf(format, args...))
}

func (r *row) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// text is "" for NULL.
func (r *row) text(column string) string {
	switch v := r.values[column].(type) {
	case nil:
		return ""
	case string:
		if utf8.ValidString(v) && !strings.ContainsRune(v, 0) {
			return v
		}
		r.fail("%s is no text", column)
	default:
		r.fail("%s is a %s, want text", column, kind(v))
	}
	return ""
}

// count is a number of vCPUs or MiB, which the reference lets be a fraction.
func (r *row) count(column string) int {
	switch v := r.values[column].(type) {
	case int64:
		if v >= 0 && v <= math.MaxInt32 {
			return int(v)
		}
		r.fail("%s is %d", column, v)
	case float64:
		return r.whole(column, v)
	default:
		r.fail("%s is a %s, want a number", column, kind(v))
	}
	return 0
}

// whole rounds up: nothing gets less than it had.
func (r *row) whole(column string, v float64) int {
	if !(v >= 0 && v <= math.MaxInt32) { // and no NaN
		r.fail("%s is %g", column, v)
		return 0
	}
	n := math.Ceil(v)
	if n != v {
		r.note("%s %s becomes %d", column, strconv.FormatFloat(v, 'g', -1, 64), int(n))
	}
	return int(n)
}

// timeLayouts are those that the reference writes, and SQLite for it.
var timeLayouts = []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02 15:04:05.999999999"}

// latest is where our times end, in nanoseconds since 1970. A key that expires
// later expires then.
var latest = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)

// time is zero for NULL. Anything else that is no time is wrong: a key that
// expires at a time that nobody can read must not be one that never does.
func (r *row) time(column string) time.Time {
	v := r.values[column]
	if v == nil {
		return time.Time{}
	}
	text, ok := v.(string)
	for _, layout := range timeLayouts {
		t, err := time.Parse(layout, text)
		if !ok || err != nil {
			continue
		}
		if t.After(latest) {
			return latest
		}
		if t.Unix() > 0 {
			return t.UTC()
		}
	}
	if ok {
		r.fail("%s %.40q is no time", column, text)
	} else {
		r.fail("%s is a %s, want a time as text", column, kind(v))
	}
	return time.Time{}
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "NULL"
	case int64, float64:
		return "number"
	case []byte:
		return "blob"
	}
	return "text"
}

// label makes text of a value for people, whatever it is.
func label(v any) string {
	s, ok := v.(string)
	if !ok {
		return "?"
	}
	s = strings.ToValidUTF8(s, "?")
	if len(s) > 64 {
		s = strings.ToValidUTF8(s[:64], "") + "..."
	}
	quoted := strconv.Quote(s)
	return quoted[1 : len(quoted)-1]
}
