package initd

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/initd/file"
)

// pathRequest reads a request of one path, once the guest is set up.
func (a *Agent) pathRequest(s *guestproto.Stream) (string, error) {
	var req guestproto.FilePath
	if err := s.Request(&req); err != nil {
		return "", err
	}
	return string(req.Path), a.isReady()
}

func infoOf(st fs.FileInfo) guestproto.FileInfo {
	return guestproto.FileInfo{
		Name: guestproto.Text(st.Name()), Size: st.Size(),
		Mode: uint32(st.Mode()), ModTimeUnixNs: st.ModTime().UnixNano(),
	}
}

func (a *Agent) fileRead(_ context.Context, s *guestproto.Stream) (any, error) {
	path, err := a.pathRequest(s)
	if err != nil {
		return nil, err
	}
	f, st, err := file.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := s.Send(infoOf(st)); err != nil {
		return nil, err
	}
	_, err = io.Copy(s.Writer(guestproto.Download), f)
	return guestproto.Empty{}, err
}

func (a *Agent) fileWrite(_ context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.FileWrite
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	n, err := file.Write(string(req.Path), fs.FileMode(req.Mode), s.Reader(guestproto.Upload))
	return guestproto.FileWritten{Size: n}, err
}

func (a *Agent) fileStat(_ context.Context, s *guestproto.Stream) (any, error) {
	path, err := a.pathRequest(s)
	if err != nil {
		return nil, err
	}
	st, err := file.Stat(path)
	if err != nil {
		return nil, err
	}
	return infoOf(st), nil
}

func (a *Agent) fileList(ctx context.Context, s *guestproto.Stream) (any, error) {
	path, err := a.pathRequest(s)
	if err != nil {
		return nil, err
	}
	enc := json.NewEncoder(s.Writer(guestproto.Download))
	return guestproto.Empty{}, file.List(ctx, path, func(st fs.FileInfo) error { return enc.Encode(infoOf(st)) })
}

func (a *Agent) fileMkdir(_ context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.FileMkdir
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	return guestproto.Empty{}, file.Mkdir(string(req.Path), fs.FileMode(req.Mode), req.Parents)
}

func (a *Agent) fileRemove(_ context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.FileRemove
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	return guestproto.Empty{}, file.Remove(string(req.Path), req.Recursive)
}

func (a *Agent) fileRename(_ context.Context, s *guestproto.Stream) (any, error) {
	var req guestproto.FileRename
	if err := s.Request(&req); err != nil {
		return nil, err
	}
	if err := a.isReady(); err != nil {
		return nil, err
	}
	return guestproto.Empty{}, file.Rename(string(req.From), string(req.To))
}
