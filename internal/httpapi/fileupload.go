package httpapi

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/hyperfleet/hyperfleet"
)

const (
	uploadMaxField = 64 << 10 // bytes of any field but content
	uploadMaxDepth = 64       // nesting of fields that are ignored
)

// parseFileUpload reads the JSON body of an upload and decodes its content to w
// on the way, so that a file is never held in memory. The Content of the result
// is empty.
func parseFileUpload(r io.Reader, w io.Writer) (fileUpload, error) {
	body := &watchedReader{r: r}
	p := &uploadParser{r: bufio.NewReaderSize(body, 32<<10), content: w}
	err := p.object()
	var up fileUpload
	switch {
	case err == nil:
	case errors.As(err, new(*apiError)):
		return up, err
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return up, refusal(http.StatusBadRequest, "the request body is cut")
	case errors.Is(err, errUploadSyntax):
		return up, refusal(http.StatusBadRequest, "validation failed", hyperfleet.ErrorDetail{Location: "body", Message: err.Error()})
	case body.err != nil:
		return up, bodyError(body.err)
	default:
		return up, err
	}
	var missing []hyperfleet.ErrorDetail
	for _, f := range []struct {
		name string
		have bool
	}{{"path", p.up.Path != ""}, {"content", p.seen}} {
		if !f.have {
			missing = append(missing, hyperfleet.ErrorDetail{Location: "body." + f.name, Message: "expected required property " + f.name + " to be present"})
		}
	}
	if missing != nil {
		return up, refusal(http.StatusBadRequest, "validation failed", missing...)
	}
	return p.up, nil
}

var errUploadSyntax = errors.New("malformed body")

func syntax(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUploadSyntax, fmt.Sprintf(format, args...))
}

// uploadParser is a JSON parser for one object with one huge string in it.
type uploadParser struct {
	r       *bufio.Reader
	content io.Writer
	up      fileUpload
	seen    bool // content was there
}

// token returns the next byte that is no white space.
func (p *uploadParser) token() (byte, error) {
	for {
		c, err := p.r.ReadByte()
		if err != nil || c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c, err
		}
	}
}

func (p *uploadParser) expect(want byte) error {
	c, err := p.token()
	if err == nil && c != want {
		err = syntax("%q where %q should be", c, want)
	}
	return err
}

// object parses the whole body.
func (p *uploadParser) object() error {
	if err := p.expect('{'); err != nil {
		return err
	}
	c, err := p.token()
	for first := true; err == nil && (c != '}' || !first); first = false {
		if c != '"' {
			return syntax("%q where a field should be", c)
		}
		if err := p.field(); err != nil {
			return err
		}
		if c, err = p.token(); err != nil || c == '}' {
			break
		}
		if c != ',' {
			return syntax("%q after a field", c)
		}
		c, err = p.token()
	}
	if err != nil {
		return err
	}
	if _, err := p.token(); err == nil {
		return syntax("more after the object")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// field parses a field whose opening quote was read.
func (p *uploadParser) field() error {
	raw, err := p.value('"')
	if err != nil {
		return err
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return syntax("field name: %v", err)
	}
	if err := p.expect(':'); err != nil {
		return err
	}
	c, err := p.token()
	if err != nil {
		return err
	}
	if name == "content" {
		if c != '"' {
			return syntax("content: expected string")
		}
		return p.decodeContent()
	}
	if raw, err = p.value(c); err != nil {
		return err
	}
	if !json.Valid(raw) {
		return syntax("field %.32q: not JSON", name)
	}
	target := map[string]*string{"path": &p.up.Path, "mode": &p.up.Mode}[name]
	if target != nil && json.Unmarshal(raw, target) != nil {
		return syntax("%s: expected string", name)
	}
	return nil
}

// value reads one small value that begins with c, without looking into it
// more than is needed to find its end.
func (p *uploadParser) value(c byte) ([]byte, error) {
	raw := []byte{c}
	depth, quoted, escaped := 0, false, false
	for {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if len(raw) > uploadMaxField || depth > uploadMaxDepth {
			return nil, syntax("a field is too large")
		}
		if depth < 0 {
			return nil, syntax("%q where a value should be", c)
		}
		ended := !quoted && depth == 0 && (c == '"' && len(raw) > 1 || c == '}' || c == ']')
		if ended {
			return raw, nil
		}
		if !quoted && depth == 0 {
			// A number or a word ends before the next separator.
			if next, err := p.r.Peek(1); err == nil && endsScalar(next[0]) && len(raw) > 0 && c != '"' {
				return raw, nil
			}
		}
		var err error
		if c, err = p.r.ReadByte(); err != nil {
			return nil, err
		}
		raw = append(raw, c)
	}
}

func endsScalar(c byte) bool {
	return c == ',' || c == '}' || c == ']' || c == ' ' || c == '\t' || c == '\n' || c == '\r'
}

// decodeContent decodes the base64 of a string whose opening quote was read.
func (p *uploadParser) decodeContent() error {
	if p.seen {
		return syntax("content: given twice")
	}
	p.seen = true
	text := &jsonStringReader{r: p.r}
	_, err := io.CopyBuffer(onlyWriter{p.content}, base64.NewDecoder(base64.StdEncoding, text), make([]byte, 32<<10))
	if corrupt := base64.CorruptInputError(0); errors.As(err, &corrupt) {
		return syntax("content: not base64")
	}
	if err == nil && !text.ended {
		return syntax("content: not base64")
	}
	if err != nil && text.err == nil && text.ended && errors.Is(err, io.ErrUnexpectedEOF) {
		return syntax("content: base64 is cut")
	}
	return err
}

// jsonStringReader returns the characters of a JSON string up to its closing
// quote. What base64 has no use for is refused by the decoder; of escapes, JSON
// writers use only those of '/', '+' and '='.
type jsonStringReader struct {
	r     *bufio.Reader
	ended bool
	err   error // of r
}

func (j *jsonStringReader) Read(b []byte) (int, error) {
	for n := range b {
		if j.ended {
			return n, io.EOF
		}
		c, err := j.char()
		if err != nil {
			return n, err
		}
		if j.ended {
			return n, io.EOF
		}
		b[n] = c
	}
	return len(b), nil
}

func (j *jsonStringReader) char() (byte, error) {
	c, err := j.read()
	switch {
	case err != nil:
		return 0, err
	case c == '"':
		j.ended = true
		return 0, nil
	case c < 0x20:
		return 0, syntax("content: control character in a string")
	case c != '\\':
		return c, nil
	}
	if c, err = j.read(); err != nil {
		return 0, err
	}
	switch c {
	case '/':
		return '/', nil
	case 'n', 'r': // PEM-like line breaks; the decoder skips them
		return '\n', nil
	case 'u':
		return j.escape()
	}
	return 0, syntax("content: not base64")
}

func (j *jsonStringReader) escape() (byte, error) {
	var n int
	for range 4 {
		c, err := j.read()
		if err != nil {
			return 0, err
		}
		digit := int(c) - '0'
		if c = c | 0x20; c >= 'a' && c <= 'f' {
			digit = int(c-'a') + 10
		}
		if digit < 0 || digit > 15 {
			return 0, syntax("content: bad escape")
		}
		n = n<<4 | digit
	}
	if n >= 0x80 {
		return 0, syntax("content: not base64")
	}
	return byte(n), nil
}

func (j *jsonStringReader) read() (byte, error) {
	c, err := j.r.ReadByte()
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		j.err = err
	}
	return c, err
}
