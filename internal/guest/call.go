package guest

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/guestproto"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// call makes one request without data channels. It is carried out at most
// once: a break while it waits is an error.
func (s *Session) call(ctx context.Context, op string, method guestproto.Method, req, res any) error {
	conn, err := s.session(ctx)
	if err != nil {
		return err
	}
	return s.public(op, roundTrip(ctx, conn, method, req, res))
}

// ask is call for requests that change nothing: they are made again after a
// break.
func (s *Session) ask(ctx context.Context, op string, method guestproto.Method, req, res any) error {
	for {
		conn, err := s.session(ctx)
		if err != nil {
			return err
		}
		err = roundTrip(ctx, conn, method, req, res)
		if !errors.Is(err, guestproto.ErrBroken) {
			return s.public(op, err)
		}
	}
}

func roundTrip(ctx context.Context, conn *guestproto.Conn, method guestproto.Method, req, res any) error {
	st, err := conn.Open(ctx, method, req)
	if err != nil {
		return err
	}
	defer st.Close()
	return st.Result(ctx, res)
}

// valid checks a request before it costs anything.
func valid(op string, req interface{ Validate() error }) error {
	if err := req.Validate(); err != nil {
		return errdefs.New(errdefs.Invalid, guestproto.CodeBadRequest, "%s: %w", op, err)
	}
	return nil
}

// Stat implements machine.Guest.
func (s *Session) Stat(ctx context.Context, path string) (machine.FileInfo, error) {
	req := &guestproto.FilePath{Path: guestproto.Text(path)}
	if err := valid("stat", req); err != nil {
		return machine.FileInfo{}, err
	}
	var fi guestproto.FileInfo
	if err := s.ask(ctx, "stat", guestproto.MethodFileStat, req, &fi); err != nil {
		return machine.FileInfo{}, err
	}
	return fileInfo(path, fi), nil
}

// Mkdir implements machine.Guest.
func (s *Session) Mkdir(ctx context.Context, path string, mode fs.FileMode, parents bool) error {
	req := &guestproto.FileMkdir{Path: guestproto.Text(path), Mode: uint32(mode), Parents: parents}
	if err := valid("mkdir", req); err != nil {
		return err
	}
	return s.call(ctx, "mkdir", guestproto.MethodFileMkdir, req, nil)
}

// Remove implements machine.Guest.
func (s *Session) Remove(ctx context.Context, path string, recursive bool) error {
	req := &guestproto.FileRemove{Path: guestproto.Text(path), Recursive: recursive}
	if err := valid("remove", req); err != nil {
		return err
	}
	return s.call(ctx, "remove", guestproto.MethodFileRemove, req, nil)
}

// Rename implements machine.Guest.
func (s *Session) Rename(ctx context.Context, from, to string) error {
	req := &guestproto.FileRename{From: guestproto.Text(from), To: guestproto.Text(to)}
	if err := valid("rename", req); err != nil {
		return err
	}
	return s.call(ctx, "rename", guestproto.MethodFileRename, req, nil)
}

// SetClock implements machine.Guest. A session that is made anew meanwhile has
// set the clock already; the time is that of each attempt.
func (s *Session) SetClock(ctx context.Context) error {
	for {
		conn, err := s.session(ctx)
		if err != nil {
			return err
		}
		err = roundTrip(ctx, conn, guestproto.MethodClock, guestproto.Clock{UnixNano: time.Now().UnixNano()}, nil)
		if !errors.Is(err, guestproto.ErrBroken) {
			return s.public("set clock", err)
		}
	}
}

// Shutdown implements machine.Guest.
func (s *Session) Shutdown(ctx context.Context, grace time.Duration) error {
	req := &guestproto.Shutdown{GraceMillis: grace.Milliseconds()}
	if err := valid("shut down", req); err != nil {
		return err
	}
	return s.call(ctx, "shut down", guestproto.MethodShutdown, req, nil)
}

func fileInfo(path string, fi guestproto.FileInfo) machine.FileInfo {
	return machine.FileInfo{
		Path:    path,
		Size:    max(fi.Size, 0),
		Mode:    fs.FileMode(fi.Mode),
		ModTime: time.Unix(0, fi.ModTimeUnixNs),
	}
}
