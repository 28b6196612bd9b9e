package guestproto

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
)

// Messages of a boot and of a command are read and written without package json
// when they are plain: known fields, strings of ASCII without escapes, whole
// numbers, no blanks, which is how this package writes them. Package json takes
// all others, and answers for what is wrong. Its first use is a great deal of
// code, which an emulated guest would translate before its first command.
type (
	plainDecoder interface{ decodePlain(p *plain) }
	plainEncoder interface{ appendPlain(b []byte) []byte } // nil: not plain
)

// unmarshal is json.Unmarshal.
func unmarshal(raw []byte, v any) error {
	if m, ok := v.(plainDecoder); ok {
		p := &plain{rest: raw}
		if m.decodePlain(p); p.done() {
			return nil
		}
	}
	return json.Unmarshal(raw, v)
}

// marshal is json.Marshal.
func marshal(v any) ([]byte, error) {
	if m, ok := v.(plainEncoder); ok {
		if b := m.appendPlain(make([]byte, 0, 128)); b != nil {
			return b, nil
		}
	}
	return json.Marshal(v)
}

// plain reads a message. After a failure it reads nothing more.
type plain struct {
	rest   []byte
	failed bool
}

func (p *plain) fail() { p.rest, p.failed = nil, true }

// done tells that the message was read, to its end.
func (p *plain) done() bool { return !p.failed && len(p.rest) == 0 }

func (p *plain) take(token string) bool {
	rest, ok := bytes.CutPrefix(p.rest, []byte(token))
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *plain) need(token string) {
	if !p.take(token) {
		p.fail()
	}
}

// object calls field for the value of each field; false is one not known.
func (p *plain) object(field func(name string) bool) {
	p.need("{")
	for more := !p.take("}"); more && !p.failed; {
		name := p.text()
		p.need(":")
		if !field(name) {
			p.fail()
		}
		if more = p.take(","); !more {
			p.need("}")
		}
	}
}

func (p *plain) text() string {
	p.need(`"`)
	for i, c := range p.rest {
		switch {
		case c == '"':
			s := string(p.rest[:i])
			p.rest = p.rest[i+1:]
			return s
		case c < ' ' || c > '~' || c == '\\':
			p.fail()
			return ""
		}
	}
	p.fail()
	return ""
}

// plainTexts reads a list of strings.
func plainTexts[T ~string](p *plain) []T {
	list := []T{}
	p.need("[")
	for more := !p.take("]"); more && !p.failed; {
		list = append(list, T(p.text()))
		if more = p.take(","); !more {
			p.need("]")
		}
	}
	return list
}

func (p *plain) boolean() bool {
	if p.take("true") {
		return true
	}
	p.need("false")
	return false
}

// maxDigits is how many digits surely fit into 64 bits.
const maxDigits = 19

func (p *plain) number() int64 {
	minus := p.take("-")
	var n uint64
	digits := 0
	for digits < len(p.rest) && digits <= maxDigits && p.rest[digits] >= '0' && p.rest[digits] <= '9' {
		n = 10*n + uint64(p.rest[digits]-'0')
		digits++
	}
	if digits == 0 || digits > maxDigits || n > math.MaxInt64 || digits > 1 && p.rest[0] == '0' {
		p.fail()
		return 0
	}
	p.rest = p.rest[digits:]
	if minus {
		return -int64(n)
	}
	return int64(n)
}

func (m *Clock) decodePlain(p *plain) {
	var v Clock
	p.object(func(name string) bool {
		if name == "unix_nano" {
			v.UnixNano = p.number()
			return true
		}
		return false
	})
	if p.done() {
		*m = v
	}
}

func (m *Boot) decodePlain(p *plain) {
	var v Boot
	p.object(func(name string) bool {
		switch name {
		case "hostname":
			v.Hostname = p.text()
		case "overlay":
			v.Overlay = p.boolean()
		case "volumes":
			v.Volumes = plainTexts[Text](p)
		case "network":
			if v.Network != nil {
				return false // json joins the two
			}
			v.Network = p.network()
		case "env":
			v.Env = plainTexts[Text](p)
		case "work_dir":
			v.WorkDir = Text(p.text())
		case "user":
			v.User = Text(p.text())
		default:
			return false
		}
		return true
	})
	if p.done() {
		*m = v
	}
}

func (p *plain) network() *BootNetwork {
	v := &BootNetwork{}
	p.object(func(name string) bool {
		switch name {
		case "address":
			v.Address = p.text()
		case "gateway":
			v.Gateway = p.text()
		case "dns":
			v.DNS = plainTexts[string](p)
		default:
			return false
		}
		return true
	})
	return v
}

func (m *ExecStart) decodePlain(p *plain) {
	var v ExecStart
	p.object(func(name string) bool {
		switch name {
		case "id":
			v.ID = p.text()
		case "argv":
			v.Argv = plainTexts[Text](p)
		case "env":
			v.Env = plainTexts[Text](p)
		case "work_dir":
			v.WorkDir = Text(p.text())
		case "user":
			v.User = Text(p.text())
		case "stdin":
			v.Stdin = p.boolean()
		case "timeout_ms":
			v.TimeoutMillis = p.number()
		default:
			return false
		}
		return true
	})
	if p.done() {
		*m = v
	}
}

func (m *ExecRelease) decodePlain(p *plain) {
	var v ExecRelease
	p.object(func(name string) bool {
		if name == "ids" {
			v.IDs = plainTexts[string](p)
			return true
		}
		return false
	})
	if p.done() {
		*m = v
	}
}

func (Empty) appendPlain(b []byte) []byte { return append(b, "{}"...) }

func (m Ready) appendPlain(b []byte) []byte {
	if !isPlain(m.InitVersion) || !isPlain(m.Kernel) {
		return nil
	}
	b = append(b, '{')
	if m.InitVersion != "" {
		b = append(append(append(b, `"init_version":"`...), m.InitVersion...), '"')
	}
	if m.InitVersion != "" && m.Kernel != "" {
		b = append(b, ',')
	}
	if m.Kernel != "" {
		b = append(append(append(b, `"kernel":"`...), m.Kernel...), '"')
	}
	return append(b, '}')
}

func (m ExecStarted) appendPlain(b []byte) []byte {
	b = strconv.AppendInt(append(b, `{"stdin":`...), m.Stdin, 10)
	b = strconv.AppendInt(append(b, `,"stdout":`...), m.Stdout, 10)
	b = strconv.AppendInt(append(b, `,"stderr":`...), m.Stderr, 10)
	return append(b, '}')
}

func (m ExecExit) appendPlain(b []byte) []byte {
	if !isPlain(m.Signal) {
		return nil
	}
	b = strconv.AppendInt(append(b, `{"code":`...), int64(m.Code), 10)
	if m.Signal != "" {
		b = append(append(append(b, `,"signal":"`...), m.Signal...), '"')
	}
	if m.TimedOut {
		b = append(b, `,"timed_out":true`...)
	}
	b = strconv.AppendInt(append(b, `,"stdout":`...), m.Stdout, 10)
	b = strconv.AppendInt(append(b, `,"stderr":`...), m.Stderr, 10)
	return append(b, '}')
}

// isPlain tells that package json writes s as it is.
func isPlain(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c < ' ' || c > '~', c == '"', c == '\\', c == '<', c == '>', c == '&':
			return false
		}
	}
	return true
}
