package httpapi

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

const octetStream = "application/octet-stream"

// fileContent documents the JSON form of a whole file.
type fileContent struct {
	Content string `json:"content" doc:"The file, in base64" contentEncoding:"base64"`
	Size    int64  `json:"size"`
}

// fileUpload documents the JSON body of an upload.
type fileUpload struct {
	Path    string `json:"path" minLength:"1"`
	Content string `json:"content" doc:"The file, in base64" contentEncoding:"base64"`
	Mode    string `json:"mode,omitempty" pattern:"^[0-7]{1,4}$" doc:"Permission bits in octal; default 644"`
}

func (s *Server) registerFiles() {
	tags := []string{"files"}
	register(s, huma.Operation{
		OperationID: "uploadFile", Security: needs(auth.MachinesExec), Method: http.MethodPost, Path: "/machines/{id}/files", Tags: tags, Summary: "Write a file given in base64",
	}, s.uploadFile, ofGuest)
	// Told afterwards: huma would read and decode a body that it knows of.
	upload := s.operation(http.MethodPost, "/machines/{id}/files")
	upload.RequestBody = &huma.RequestBody{Required: true, Content: jsonContent(schemaOf[fileUpload](s))}
	s.document(upload, ofGuest)
	register(s, huma.Operation{
		OperationID: "putFile", Security: needs(auth.MachinesExec), Method: http.MethodPut, Path: "/machines/{id}/files", Tags: tags, Summary: "Write a file of any size; it is replaced once all of it has arrived",
		RequestBody: &huma.RequestBody{Description: "The file; nothing makes an empty one", Content: binaryContent(octetStream)},
	}, s.putFile, ofGuest)
	register(s, huma.Operation{
		OperationID: "readFile", Security: needs(auth.MachinesExec), Method: http.MethodGet, Path: "/machines/{id}/files", Tags: tags, Summary: "Read a file",
		Description: "In base64, or with `Accept: application/octet-stream` as it is.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The file",
			Headers: map[string]*huma.Param{
				hyperfleet.HeaderFileSize: {Description: "Bytes, of a file as it is", Schema: &huma.Schema{Type: huma.TypeString}},
				hyperfleet.HeaderFileMode: {Description: "Permission bits in octal, of a file as it is", Schema: &huma.Schema{Type: huma.TypeString}},
			},
			Content: map[string]*huma.MediaType{
				mediaJSON: {Schema: schemaOf[fileContent](s)}, octetStream: binaryContent(octetStream)[octetStream],
			},
		}},
	}, s.readFile, ofGuest)
	register(s, huma.Operation{OperationID: "removeFile", Security: needs(auth.MachinesExec), Method: http.MethodDelete, Path: "/machines/{id}/files", Tags: tags, Summary: "Remove a file or a folder", DefaultStatus: http.StatusNoContent}, s.removeFile, ofGuest)
	register(s, huma.Operation{OperationID: "statFile", Security: needs(auth.MachinesExec), Method: http.MethodGet, Path: "/machines/{id}/files/stat", Tags: tags, Summary: "Describe a file"}, s.statFile, ofGuest)
	register(s, huma.Operation{OperationID: "listFiles", Security: needs(auth.MachinesExec), Method: http.MethodGet, Path: "/machines/{id}/files/list", Tags: tags, Summary: "List a folder"}, s.listFiles, ofGuest)
	register(s, huma.Operation{OperationID: "mkdir", Security: needs(auth.MachinesExec), Method: http.MethodPost, Path: "/machines/{id}/files/mkdir", Tags: tags, Summary: "Make a folder", DefaultStatus: http.StatusNoContent}, s.mkdir, ofGuest)
	register(s, huma.Operation{OperationID: "renameFile", Security: needs(auth.MachinesExec), Method: http.MethodPost, Path: "/machines/{id}/files/rename", Tags: tags, Summary: "Rename a file", DefaultStatus: http.StatusNoContent}, s.renameFile, ofGuest)
	s.documentPaths()
}

// documentPaths tells the document that paths are absolute. It is not for
// validation, since the contract has its own words for one that is not.
func (s *Server) documentPaths() {
	const absolute = "^/[^\\u0000]*$"
	for _, item := range s.api.OpenAPI().Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Delete} {
			if op == nil || !slices.Contains(op.Tags, "files") {
				continue
			}
			for _, p := range op.Parameters {
				if p.Name == "path" {
					p.Schema.Pattern = absolute
				}
			}
		}
	}
	schemas := s.api.OpenAPI().Components.Schemas.Map()
	for _, name := range []string{"FileUpload", "MkdirRequest", "RenameRequest"} {
		for _, property := range []string{"path", "from", "to"} {
			if schema := schemas[name].Properties[property]; schema != nil {
				schema.Pattern = absolute
			}
		}
	}
}

// FileParam is the part of an input that names one file.
type FileParam struct {
	MachineParam
	Path string `query:"path" required:"true" minLength:"1" maxLength:"4095" doc:"Absolute path in the guest"`
}

// StreamedBody is the part of an input that lets a handler read the request's body itself.
type StreamedBody struct{ body io.Reader }

// Resolve keeps the body.
func (b *StreamedBody) Resolve(ctx huma.Context) []error {
	b.body = ctx.BodyReader()
	return nil
}

// guest returns the session of a running machine, for a file call.
func (s *Server) guest(ctx context.Context, in MachineParam, paths ...string) (machine.Guest, error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	for _, p := range paths {
		if !strings.HasPrefix(p, "/") {
			return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "Remote path must be absolute")
		}
		if strings.ContainsRune(p, 0) {
			return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "Remote path must not contain NUL")
		}
	}
	if err := s.running(ctx, id, "for file operations"); err != nil {
		return nil, err
	}
	g, err := s.cfg.Machines.Guest(ctx, id)
	return g, machineErr(err)
}

// fileErr gives a deadline of ours the contract's words.
func fileErr(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return errdefs.Wrap(err, errdefs.Guest, "VSOCK_ERROR", "File operation timed out")
	}
	return err
}

type uploadInput struct {
	MachineParam
	StreamedBody
}

func (s *Server) uploadFile(ctx context.Context, in *uploadInput) (*response[hyperfleet.WriteResult], error) {
	budget := atomic.Int64{}
	budget.Store(s.cfg.FileMaxSize)
	content := s.spools.open(&budget)
	defer content.close()
	counted := &overflow{spool: content, max: s.cfg.FileMaxSize}
	up, err := parseFileUpload(in.body, counted)
	if err != nil {
		return nil, err
	}
	mode, err := parseMode(up.Mode, 0o644)
	if err != nil {
		return nil, err
	}
	guest, err := s.guest(ctx, in.MachineParam, up.Path)
	if err != nil {
		return nil, err
	}
	if counted.n > s.cfg.FileMaxSize {
		return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "File too large: %d bytes (max %d)", counted.n, s.cfg.FileMaxSize)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FileTimeout)
	defer cancel()
	n, err := guest.WriteFile(ctx, up.Path, mode, content.reader())
	if err != nil {
		return nil, fileErr(ctx, err)
	}
	return &response[hyperfleet.WriteResult]{hyperfleet.WriteResult{Success: true, BytesWritten: n}}, nil
}

// overflow counts on when the spool is full, so that the error can tell the
// size, and gives up at twice the limit.
type overflow struct {
	spool  *spool
	n, max int64
}

func (o *overflow) Write(p []byte) (int, error) {
	o.n += int64(len(p))
	if o.n > 2*o.max+1<<20 {
		return 0, refusal(http.StatusRequestEntityTooLarge, "the file is far larger than the server's limit")
	}
	if o.n > o.max {
		return len(p), nil
	}
	return o.spool.Write(p)
}

type putInput struct {
	FileParam
	StreamedBody
	Mode string `query:"mode" pattern:"^[0-7]{1,4}$" doc:"Permission bits in octal; default 644"`
}

func (s *Server) putFile(ctx context.Context, in *putInput) (*response[hyperfleet.WriteResult], error) {
	mode, err := parseMode(in.Mode, 0o644)
	if err != nil {
		return nil, err
	}
	guest, err := s.guest(ctx, in.MachineParam, in.Path)
	if err != nil {
		return nil, err
	}
	body := &watchedReader{r: in.body}
	n, err := guest.WriteFile(ctx, in.Path, mode, body)
	if body.err != nil {
		return nil, bodyError(body.err)
	}
	if err != nil {
		return nil, err
	}
	return &response[hyperfleet.WriteResult]{hyperfleet.WriteResult{Success: true, BytesWritten: n}}, nil
}

// watchedReader remembers why reading ended before EOF.
type watchedReader struct {
	r   io.Reader
	err error
}

func (w *watchedReader) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

type readInput struct {
	FileParam
	Accept string `header:"Accept" doc:"application/octet-stream for the bytes as they are"`
}

func (s *Server) readFile(ctx context.Context, in *readInput) (*huma.StreamResponse, error) {
	guest, err := s.guest(ctx, in.MachineParam, in.Path)
	if err != nil {
		return nil, err
	}
	raw := strings.Contains(in.Accept, octetStream)
	cancel := context.CancelFunc(func() {})
	if !raw {
		ctx, cancel = context.WithTimeout(ctx, s.cfg.FileTimeout)
	}
	info, file, err := guest.ReadFile(ctx, in.Path)
	if err != nil {
		defer cancel()
		return nil, fileErr(ctx, err)
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer cancel()
		defer file.Close()
		send := sendFileJSON
		if raw {
			send = sendFileRaw
		}
		if err := send(hc, info, file); err != nil {
			s.logger(ctx).Debug("send a file", "err", err)
			panic(http.ErrAbortHandler) // the caller sees a cut answer, not a short one
		}
	}}, nil
}

func sendFileRaw(hc huma.Context, info machine.FileInfo, file io.Reader) error {
	hc.SetHeader("Content-Type", octetStream)
	hc.SetHeader("X-Content-Type-Options", "nosniff")
	hc.SetHeader(hyperfleet.HeaderFileSize, strconv.FormatInt(info.Size, 10))
	hc.SetHeader(hyperfleet.HeaderFileMode, octal(info.Mode))
	hc.SetStatus(http.StatusOK)
	_, err := io.CopyBuffer(onlyWriter{hc.BodyWriter()}, file, make([]byte, 64<<10))
	return err
}

func sendFileJSON(hc huma.Context, _ machine.FileInfo, file io.Reader) error {
	hc.SetHeader("Content-Type", "application/json")
	hc.SetStatus(http.StatusOK)
	w := hc.BodyWriter()
	if _, err := io.WriteString(w, `{"content":`); err != nil {
		return err
	}
	counted := &countingReader{r: file}
	if err := writeJSONBase64(w, counted); err != nil {
		return err
	}
	_, err := io.WriteString(w, `,"size":`+strconv.FormatInt(counted.n, 10)+"}\n")
	return err
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type removeInput struct {
	FileParam
	Recursive bool `query:"recursive" doc:"Also a folder that is not empty"`
}

func (s *Server) removeFile(ctx context.Context, in *removeInput) (*struct{}, error) {
	return nil, s.fileCall(ctx, in.MachineParam, []string{in.Path}, func(ctx context.Context, g machine.Guest) error {
		return g.Remove(ctx, in.Path, in.Recursive)
	})
}

// fileCall runs a short file operation under the configured deadline.
func (s *Server) fileCall(ctx context.Context, in MachineParam, paths []string, act func(context.Context, machine.Guest) error) error {
	guest, err := s.guest(ctx, in, paths...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.FileTimeout)
	defer cancel()
	return fileErr(ctx, act(ctx, guest))
}

func (s *Server) statFile(ctx context.Context, in *FileParam) (*response[hyperfleet.FileInfo], error) {
	out := &response[hyperfleet.FileInfo]{}
	err := s.fileCall(ctx, in.MachineParam, []string{in.Path}, func(ctx context.Context, g machine.Guest) error {
		info, err := g.Stat(ctx, in.Path)
		out.Body = fileView(info)
		return err
	})
	return out, err
}

func (s *Server) listFiles(ctx context.Context, in *FileParam) (*response[[]hyperfleet.FileInfo], error) {
	out := &response[[]hyperfleet.FileInfo]{Body: []hyperfleet.FileInfo{}}
	err := s.fileCall(ctx, in.MachineParam, []string{in.Path}, func(ctx context.Context, g machine.Guest) error {
		list, err := g.List(ctx, in.Path)
		for _, info := range list {
			out.Body = append(out.Body, fileView(info))
		}
		return err
	})
	return out, err
}

type mkdirInput struct {
	MachineParam
	Body hyperfleet.MkdirRequest
}

func (s *Server) mkdir(ctx context.Context, in *mkdirInput) (*struct{}, error) {
	mode, err := parseMode(in.Body.Mode, 0o755)
	if err != nil {
		return nil, err
	}
	return nil, s.fileCall(ctx, in.MachineParam, []string{in.Body.Path}, func(ctx context.Context, g machine.Guest) error {
		return g.Mkdir(ctx, in.Body.Path, mode, in.Body.Parents)
	})
}

type renameInput struct {
	MachineParam
	Body hyperfleet.RenameRequest
}

func (s *Server) renameFile(ctx context.Context, in *renameInput) (*struct{}, error) {
	return nil, s.fileCall(ctx, in.MachineParam, []string{in.Body.From, in.Body.To}, func(ctx context.Context, g machine.Guest) error {
		return g.Rename(ctx, in.Body.From, in.Body.To)
	})
}

func fileView(info machine.FileInfo) hyperfleet.FileInfo {
	v := hyperfleet.FileInfo{
		Path: info.Path, Size: info.Size, Mode: octal(info.Mode),
		ModTime: info.ModTime.UTC().Format(time.RFC3339), IsDir: info.Mode.IsDir(), Type: "other",
	}
	switch {
	case info.Mode.IsRegular():
		v.Type = "file"
	case info.Mode.IsDir():
		v.Type = "dir"
	case info.Mode&fs.ModeSymlink != 0:
		v.Type = "symlink"
	}
	return v
}

// octal is a mode as chmod takes it: permissions with setuid, setgid, sticky.
func octal(m fs.FileMode) string {
	n := uint64(m.Perm())
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&flag != 0 {
			n |= bit
		}
	}
	return strconv.FormatUint(n, 8)
}

// parseMode is the inverse of octal; "" gives def.
func parseMode(s string, def fs.FileMode) (fs.FileMode, error) {
	if s == "" {
		return def, nil
	}
	n, err := strconv.ParseUint(s, 8, 12)
	if err != nil {
		return 0, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "mode %.16q: want up to four octal digits", s)
	}
	m := fs.FileMode(n) & fs.ModePerm
	for bit, flag := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			m |= flag
		}
	}
	return m, nil
}
