package httpapi

import (
	"encoding/base64"
	"io"
	"unicode/utf8"
)

// writeJSONString writes what r gives as one JSON string, without holding it.
// Bytes that are not UTF-8 become U+FFFD.
func writeJSONString(w io.Writer, r io.Reader) error {
	in := make([]byte, 0, 32<<10)
	out := append(make([]byte, 0, 64<<10), '"')
	for {
		n, err := r.Read(in[len(in):cap(in)])
		in = in[:len(in)+n]
		if err != nil && err != io.EOF {
			return err
		}
		rest := appendEscaped(&out, in, err == io.EOF)
		in = append(in[:0], rest...)
		if err == io.EOF {
			out = append(out, '"')
		}
		if _, werr := w.Write(out); werr != nil || err == io.EOF {
			return werr
		}
		out = out[:0]
	}
}

// appendEscaped appends p in escaped form, and returns the start of a rune at
// its end that is not complete yet, unless p is final.
func appendEscaped(out *[]byte, p []byte, final bool) []byte {
	const hex = "0123456789abcdef"
	o := *out
	defer func() { *out = o }()
	for len(p) > 0 {
		c := p[0]
		switch {
		case c == '"' || c == '\\':
			o = append(o, '\\', c)
		case c == '\n':
			o = append(o, '\\', 'n')
		case c == '\r':
			o = append(o, '\\', 'r')
		case c == '\t':
			o = append(o, '\\', 't')
		case c < 0x20 || c == 0x7f:
			o = append(o, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			o = append(o, c)
		default:
			if !final && !utf8.FullRune(p) {
				return p
			}
			r, size := utf8.DecodeRune(p)
			o = utf8.AppendRune(o, r)
			p = p[size:]
			continue
		}
		p = p[1:]
	}
	return nil
}

// writeJSONBase64 writes what r gives as one JSON string of base64.
func writeJSONBase64(w io.Writer, r io.Reader) error {
	if _, err := io.WriteString(w, `"`); err != nil {
		return err
	}
	enc := base64.NewEncoder(base64.StdEncoding, w)
	if _, err := io.CopyBuffer(enc, r, make([]byte, 24<<10)); err != nil {
		return err
	}
	if err := enc.Close(); err != nil {
		return err
	}
	_, err := io.WriteString(w, `"`)
	return err
}
