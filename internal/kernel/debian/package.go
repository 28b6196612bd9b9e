// Package debian gets Debian packages without installing them: it asks apt for
// a package's file, checks the file against apt's index, and reads what is in
// it. Nothing of a package is ever run. What the files are good for is not
// known here. Callers are packages kernel and busybox. All functions are safe
// for concurrent use; packages may be hostile: sizes and counts are bounded.
package debian

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/kernel/decompress"
)

// Bounds of what is read of one package.
const (
	maxMembers = 16      // of the outer archive; deb(5) has three
	maxEntries = 200_000 // files of a package
	maxFiles   = 4 << 30 // bytes of all files
	arMagic    = "!<arch>\n"
	arHeader   = 60
)

// Walk calls visit for each file of the package that r holds, in its order,
// with a clean name relative to the root ("boot/vmlinuz-6.1.0"). The body ends
// with the file and is valid during the call only. An error of visit ends the
// walk and is returned.
func Walk(r io.Reader, visit func(name string, h *tar.Header, body io.Reader) error) error {
	data, err := dataMember(bufio.NewReader(r))
	if err != nil {
		return fmt.Errorf("read package: %w", err)
	}
	unpacked, err := decompress.Auto(data)
	if err != nil {
		return fmt.Errorf("read package: %w", err)
	}
	defer unpacked.Close()
	return walkTar(tar.NewReader(&bounded{r: unpacked, left: maxFiles}), visit)
}

func walkTar(t *tar.Reader, visit func(string, *tar.Header, io.Reader) error) error {
	for range maxEntries {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read package: %w", err)
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" {
			continue
		}
		if err := visit(name, h, t); err != nil {
			return err
		}
	}
	return fmt.Errorf("read package: more than %d files", maxEntries)
}

// dataMember finds the member data.tar.* of the ar archive that a package is
// (deb(5), ar(5)).
func dataMember(r *bufio.Reader) (io.Reader, error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, errors.New("not a Debian package")
	}
	for range maxMembers {
		name, size, err := member(r)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, "data.tar") {
			return io.LimitReader(r, size), nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, fmt.Errorf("skip member %q: %w", name, err)
		}
	}
	return nil, errors.New("no member data.tar")
}

// member reads one header: name 16, mtime 12, uid 6, gid 6, mode 8, size 10
// bytes in ASCII, padded with spaces, and an end mark.
func member(r io.Reader) (string, int64, error) {
	h := make([]byte, arHeader)
	if _, err := io.ReadFull(r, h); err != nil {
		return "", 0, fmt.Errorf("read member header: %w", err)
	}
	name := strings.TrimRight(strings.TrimRight(string(h[:16]), " "), "/")
	size, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || size < 0 || string(h[58:]) != "`\n" {
		return "", 0, errors.New("corrupt member header")
	}
	return name, size, nil
}

// bounded fails once more than left bytes were read.
type bounded struct {
	r    io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("more than %d bytes", int64(maxFiles))
	}
	return n, err
}
