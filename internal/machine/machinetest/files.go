package machinetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// file is a file or directory in a guest's memory.
type file struct {
	mode    fs.FileMode
	data    []byte
	modTime time.Time
}

func newDir() *file { return &file{mode: fs.ModeDir | 0o755, modTime: time.Now()} }

func noFile(p string) error {
	return errdefs.New(errdefs.NotFound, "FILE_NOT_FOUND", "%s: no such file or directory", p)
}

func isDir(p string) error {
	return errdefs.New(errdefs.Invalid, "FILE_IS_A_DIRECTORY", "%s: is a directory", p)
}

// on runs f on the guest's files, with those locked.
func (s *session) on(ctx context.Context, op string, f func(files map[string]*file) error) error {
	return s.call(ctx, "guest."+op, func() error {
		s.guest.mu.Lock()
		defer s.guest.mu.Unlock()
		return f(s.guest.files)
	})
}

func (f *file) info(p string) machine.FileInfo {
	return machine.FileInfo{Path: p, Size: int64(len(f.data)), Mode: f.mode, ModTime: f.modTime}
}

func (s *session) ReadFile(ctx context.Context, p string) (info machine.FileInfo, r io.ReadCloser, err error) {
	err = s.on(ctx, "ReadFile", func(files map[string]*file) error {
		f := files[path.Clean(p)]
		switch {
		case f == nil:
			return noFile(p)
		case f.mode.IsDir():
			return isDir(p)
		}
		info, r = f.info(p), io.NopCloser(bytes.NewReader(f.data))
		return nil
	})
	return info, r, err
}

func (s *session) WriteFile(ctx context.Context, p string, mode fs.FileMode, r io.Reader) (int64, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return 0, fmt.Errorf("read source: %w", err)
	}
	err = s.on(ctx, "WriteFile", func(files map[string]*file) error {
		if f := files[path.Dir(path.Clean(p))]; f == nil || !f.mode.IsDir() {
			return noFile(path.Dir(p))
		}
		if f := files[path.Clean(p)]; f != nil && f.mode.IsDir() {
			return isDir(p)
		}
		files[path.Clean(p)] = &file{mode: mode.Perm(), data: data, modTime: time.Now()}
		return nil
	})
	return int64(len(data)), err
}

func (s *session) Stat(ctx context.Context, p string) (info machine.FileInfo, err error) {
	err = s.on(ctx, "Stat", func(files map[string]*file) error {
		f := files[path.Clean(p)]
		if f == nil {
			return noFile(p)
		}
		info = f.info(p)
		return nil
	})
	return info, err
}

func (s *session) List(ctx context.Context, p string) (list []machine.FileInfo, err error) {
	err = s.on(ctx, "List", func(files map[string]*file) error {
		dir := path.Clean(p)
		if files[dir] == nil {
			return noFile(p)
		}
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if name != "/" && path.Dir(name) == dir {
				list = append(list, files[name].info(name))
			}
		}
		return nil
	})
	return list, err
}

func (s *session) Mkdir(ctx context.Context, p string, mode fs.FileMode, parents bool) error {
	return s.on(ctx, "Mkdir", func(files map[string]*file) error {
		name := path.Clean(p)
		switch {
		case files[name] != nil && !parents:
			return errdefs.New(errdefs.Conflict, "FILE_EXISTS", "%s: file exists", p)
		case files[path.Dir(name)] == nil && !parents:
			return noFile(path.Dir(p))
		}
		for ; files[name] == nil; name = path.Dir(name) {
			files[name] = &file{mode: fs.ModeDir | mode.Perm(), modTime: time.Now()}
		}
		return nil
	})
}

func (s *session) Remove(ctx context.Context, p string, recursive bool) error {
	return s.on(ctx, "Remove", func(files map[string]*file) error {
		name := path.Clean(p)
		switch {
		case files[name] == nil:
			return noFile(p)
		case name == "/":
			return errdefs.New(errdefs.Conflict, "FILE_BUSY", "%s: device or resource busy", p)
		}
		below := func(other string, _ *file) bool { return strings.HasPrefix(other, name+"/") }
		for other, f := range files {
			if below(other, f) && !recursive {
				return errdefs.New(errdefs.Conflict, "FILE_DIRECTORY_NOT_EMPTY", "%s: directory not empty", p)
			}
		}
		maps.DeleteFunc(files, below)
		delete(files, name)
		return nil
	})
}

func (s *session) Rename(ctx context.Context, from, to string) error {
	return s.on(ctx, "Rename", func(files map[string]*file) error {
		f := files[path.Clean(from)]
		if f == nil {
			return noFile(from)
		}
		delete(files, path.Clean(from))
		files[path.Clean(to)] = f
		return nil
	})
}
