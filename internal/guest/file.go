package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// Limits of a listing.
const (
	maxEntries = 100_000
	maxLine    = 8 << 10  // bytes of one entry: NAME_MAX of 255 in base64, and more
	maxList    = 32 << 20 // bytes of all paths: a guest may lie about the length of names
)

// ReadFile implements machine.Guest.
func (s *Session) ReadFile(ctx context.Context, name string) (machine.FileInfo, io.ReadCloser, error) {
	req := &guestproto.FilePath{Path: guestproto.Text(name)}
	if err := valid("read file", req); err != nil {
		return machine.FileInfo{}, nil, err
	}
	d, err := s.download(ctx, "read file", guestproto.MethodFileRead, req)
	if err != nil {
		return machine.FileInfo{}, nil, err
	}
	var fi guestproto.FileInfo
	if err := d.stream.Message(ctx, &fi); err != nil {
		d.cancel()
		if errors.Is(err, guestproto.ErrEnded) {
			err = guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBadAnswer, "no file information")
		}
		return machine.FileInfo{}, nil, s.public("read file", err)
	}
	return fileInfo(name, fi), d, nil
}

// download is an incoming transfer.
type download struct {
	s      *Session
	op     string
	ctx    context.Context // of the transfer
	stream *guestproto.Stream
	data   io.Reader
	stop   func() bool
}

func (s *Session) download(ctx context.Context, op string, method guestproto.Method, req any) (*download, error) {
	conn, err := s.session(ctx)
	if err != nil {
		return nil, err
	}
	st, err := conn.Open(ctx, method, req)
	if err != nil {
		return nil, s.public(op, err)
	}
	return &download{
		s: s, op: op, ctx: ctx, stream: st,
		data: st.Reader(guestproto.Download),
		stop: context.AfterFunc(ctx, st.Close),
	}, nil
}

// Read implements io.Reader. io.EOF means that the whole content was read.
func (d *download) Read(p []byte) (int, error) {
	n, err := d.data.Read(p)
	if errors.Is(err, io.EOF) {
		err = d.stream.Result(d.ctx, nil)
		if err == nil {
			return n, io.EOF
		}
	}
	if err == nil {
		return n, nil
	}
	if d.ctx.Err() != nil {
		err = context.Cause(d.ctx)
	}
	return n, d.s.public(d.op, err)
}

// Close implements io.Closer. A transfer that is not at its end is canceled.
func (d *download) Close() error {
	d.cancel()
	return nil
}

func (d *download) cancel() {
	d.stop()
	d.stream.Close()
}

// WriteFile implements machine.Guest. It returns only when a Read of r that is
// at work has returned.
func (s *Session) WriteFile(ctx context.Context, name string, mode fs.FileMode, r io.Reader) (int64, error) {
	const op = "write file"
	req := &guestproto.FileWrite{Path: guestproto.Text(name), Mode: uint32(mode)}
	if err := valid(op, req); err != nil {
		return 0, err
	}
	conn, err := s.session(ctx)
	if err != nil {
		return 0, err
	}
	st, err := conn.Open(ctx, guestproto.MethodFileWrite, req)
	if err != nil {
		return 0, s.public(op, err)
	}
	defer st.Close()
	defer context.AfterFunc(ctx, st.Close)()
	n, err := upload(ctx, st, r)
	if err == nil {
		var res guestproto.FileWritten
		err = st.Result(ctx, &res)
		if err == nil && res.Size != n {
			err = guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBadAnswer, "%d of %d bytes were written", res.Size, n)
		}
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return n, s.public(op, err)
}

// upload sends all of r and the end. It ends the stream when r fails.
func upload(ctx context.Context, st *guestproto.Stream, r io.Reader) (int64, error) {
	w := st.Writer(guestproto.Upload)
	buf := make([]byte, guestproto.MaxPayload)
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			m, werr := w.Write(buf[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		switch {
		case ctx.Err() != nil:
			return total, context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return total, w.Close()
		case err != nil:
			return total, sourceError(err)
		}
	}
}

// sourceError is for a reader of the caller's that fails.
func sourceError(err error) error {
	if _, ok := errors.AsType[*errdefs.Error](err); ok {
		return err
	}
	return errdefs.Wrap(err, errdefs.Invalid, "UPLOAD_CUT_OFF", "write file: the content was cut off")
}

// List implements machine.Guest.
func (s *Session) List(ctx context.Context, dir string) ([]machine.FileInfo, error) {
	req := &guestproto.FilePath{Path: guestproto.Text(dir)}
	if err := valid("list", req); err != nil {
		return nil, err
	}
	d, err := s.download(ctx, "list", guestproto.MethodFileList, req)
	if err != nil {
		return nil, err
	}
	defer d.cancel()
	lines := bufio.NewScanner(d)
	lines.Buffer(nil, maxLine)
	list := []machine.FileInfo{}
	size := 0
	for lines.Scan() {
		fi, err := parseEntry(dir, lines.Bytes())
		if err != nil {
			return nil, s.public("list", err)
		}
		if size += len(fi.Path); len(list) == maxEntries || size > maxList {
			return nil, errdefs.New(errdefs.Exhausted, "LIST_TOO_LONG",
				"list: more than %d entries, or %d MiB of paths", maxEntries, maxList>>20)
		}
		list = append(list, fi)
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nil, s.public("list", badEntry("is too long"))
	}
	if lines.Err() != nil {
		return nil, lines.Err() // public already: it comes from download.Read
	}
	return list, nil
}

func parseEntry(dir string, line []byte) (machine.FileInfo, error) {
	var fi guestproto.FileInfo
	if err := json.Unmarshal(line, &fi); err != nil {
		return machine.FileInfo{}, badEntry("does not decode")
	}
	name := string(fi.Name)
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return machine.FileInfo{}, badEntry("has no valid name")
	}
	return fileInfo(path.Join(dir, name), fi), nil
}

func badEntry(why string) error {
	return guestproto.Errorf(guestproto.KindGuest, guestproto.CodeBadAnswer, "an entry of the guest's list %s", why)
}
