package guesttest

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/hyperfleet/hyperfleet/internal/guestproto"
)

// file is a file or folder in memory, by its path.
type file struct {
	mode fs.FileMode
	data []byte
	time time.Time
}

func dir() file { return file{mode: fs.ModeDir | 0o755, time: time.Now()} }

// File returns the content of a file.
func (g *Guest) File(name string) ([]byte, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.files[name]
	return f.data, ok && !f.mode.IsDir()
}

// SetFile makes a file.
func (g *Guest) SetFile(name string, mode fs.FileMode, data []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.files[name] = file{mode, data, time.Now()}
}

func (g *Guest) handleFile(st *guestproto.Stream) (any, error) {
	switch st.Method() {
	case guestproto.MethodFileRead, guestproto.MethodFileStat, guestproto.MethodFileList:
		var req guestproto.FilePath
		if err := st.Request(&req); err != nil {
			return nil, err
		}
		return g.fileGet(st, string(req.Path))
	case guestproto.MethodFileWrite:
		return g.fileWrite(st)
	case guestproto.MethodFileMkdir:
		var req guestproto.FileMkdir
		if err := st.Request(&req); err != nil {
			return nil, err
		}
		return guestproto.Empty{}, g.mkdir(string(req.Path), fs.FileMode(req.Mode), req.Parents)
	case guestproto.MethodFileRemove:
		var req guestproto.FileRemove
		if err := st.Request(&req); err != nil {
			return nil, err
		}
		return guestproto.Empty{}, g.remove(string(req.Path), req.Recursive)
	case guestproto.MethodFileRename:
		var req guestproto.FileRename
		if err := st.Request(&req); err != nil {
			return nil, err
		}
		return guestproto.Empty{}, g.rename(string(req.From), string(req.To))
	default:
		return nil, guestproto.Errorf(guestproto.KindUnsupported, guestproto.CodeUnknown, "no method %s", st.Method())
	}
}

func pathError(op, name string, errno syscall.Errno) error {
	return &fs.PathError{Op: op, Path: name, Err: errno}
}

func (g *Guest) stat(op, name string) (file, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.files[path.Clean(name)]
	if !ok {
		return f, pathError(op, name, syscall.ENOENT)
	}
	return f, nil
}

func info(name string, f file) guestproto.FileInfo {
	return guestproto.FileInfo{
		Name:          guestproto.Text(path.Base(name)),
		Size:          int64(len(f.data)),
		Mode:          uint32(f.mode),
		ModTimeUnixNs: f.time.UnixNano(),
	}
}

func (g *Guest) fileGet(st *guestproto.Stream, name string) (any, error) {
	f, err := g.stat("open", name)
	if err != nil {
		return nil, err
	}
	switch {
	case st.Method() == guestproto.MethodFileStat:
		return info(name, f), nil
	case st.Method() == guestproto.MethodFileList:
		return g.list(st, name, f)
	case f.mode.IsDir():
		return nil, pathError("read", name, syscall.EISDIR)
	}
	if err := st.Send(info(name, f)); err != nil {
		return nil, err
	}
	_, err = st.Writer(guestproto.Download).Write(f.data)
	return guestproto.Empty{}, err
}

func (g *Guest) list(st *guestproto.Stream, name string, f file) (any, error) {
	if !f.mode.IsDir() {
		return nil, pathError("readdirent", name, syscall.ENOTDIR)
	}
	g.mu.Lock()
	files := maps.Clone(g.files)
	g.mu.Unlock()
	enc := json.NewEncoder(st.Writer(guestproto.Download))
	for _, p := range slices.Sorted(maps.Keys(files)) {
		if p == "/" || path.Dir(p) != path.Clean(name) {
			continue
		}
		if err := enc.Encode(info(p, files[p])); err != nil {
			return nil, err
		}
	}
	return guestproto.Empty{}, nil
}

func (g *Guest) fileWrite(st *guestproto.Stream) (any, error) {
	var req guestproto.FileWrite
	if err := st.Request(&req); err != nil {
		return nil, err
	}
	name := string(req.Path)
	if f, err := g.stat("open", path.Dir(name)); err != nil || !f.mode.IsDir() {
		return nil, pathError("open", name, syscall.ENOENT)
	}
	data, err := io.ReadAll(st.Reader(guestproto.Upload))
	if err != nil {
		return nil, err
	}
	g.SetFile(path.Clean(name), fs.FileMode(req.Mode), data)
	return guestproto.FileWritten{Size: int64(len(data))}, nil
}

func (g *Guest) mkdir(name string, mode fs.FileMode, parents bool) error {
	name = path.Clean(name)
	if parents && name != "/" {
		if err := g.mkdir(path.Dir(name), mode, true); err != nil {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.files[name]; ok {
		if parents && f.mode.IsDir() {
			return nil
		}
		return pathError("mkdir", name, syscall.EEXIST)
	}
	if _, ok := g.files[path.Dir(name)]; !ok {
		return pathError("mkdir", name, syscall.ENOENT)
	}
	g.files[name] = file{mode: fs.ModeDir | mode.Perm(), time: time.Now()}
	return nil
}

func (g *Guest) remove(name string, recursive bool) error {
	name = path.Clean(name)
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.files[name]; !ok {
		return pathError("remove", name, syscall.ENOENT)
	}
	for p := range g.files {
		if strings.HasPrefix(p, name+"/") {
			if !recursive {
				return pathError("remove", name, syscall.ENOTEMPTY)
			}
			delete(g.files, p)
		}
	}
	delete(g.files, name)
	return nil
}

func (g *Guest) rename(from, to string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	f, ok := g.files[path.Clean(from)]
	if !ok {
		return fmt.Errorf("rename %s: %w", from, syscall.ENOENT)
	}
	delete(g.files, path.Clean(from))
	g.files[path.Clean(to)] = f
	return nil
}
