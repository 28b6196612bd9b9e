package hyperfleet

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
)

// FileInfo describes a file in a guest.
type FileInfo struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`
	Mode    string `json:"mode" doc:"Permission bits in octal" example:"644"`
	ModTime string `json:"mod_time" format:"date-time" example:"2026-01-02T15:04:05Z"`
	IsDir   bool   `json:"is_dir"`
	Type    string `json:"type" enum:"file,dir,symlink,other"`
}

// WriteResult is the answer to a written file.
type WriteResult struct {
	Success      bool  `json:"success"`
	BytesWritten int64 `json:"bytes_written"`
}

// Headers of a raw file download.
const (
	HeaderFileSize = "X-Hyperfleet-File-Size" // bytes, as the guest's stat said
	HeaderFileMode = "X-Hyperfleet-File-Mode" // octal
)

// ReadFile opens a file of the guest as a stream, whatever its size. A
// transfer that breaks is an error of Read. The caller closes it; ctx bounds
// the whole transfer.
func (c *Client) ReadFile(ctx context.Context, machineID, path string) (io.ReadCloser, FileInfo, error) {
	resp, err := c.send(ctx, call{
		method: http.MethodGet, path: machinePath(machineID, "files"), query: url.Values{"path": {path}},
		header: http.Header{"Accept": {"application/octet-stream"}},
	})
	if err != nil {
		return nil, FileInfo{}, err
	}
	size, err := strconv.ParseInt(resp.Header.Get(HeaderFileSize), 10, 64)
	if err != nil {
		resp.Body.Close()
		return nil, FileInfo{}, fmt.Errorf("size of %q: %w", path, err)
	}
	return resp.Body, FileInfo{Path: path, Size: size, Mode: resp.Header.Get(HeaderFileMode), Type: "file"}, nil
}

// WriteFile replaces a file of the guest with what r gives until EOF, and
// returns the bytes written. The old file stays unless all of r has arrived.
func (c *Client) WriteFile(ctx context.Context, machineID, path string, mode fs.FileMode, r io.Reader) (int64, error) {
	query := url.Values{"path": {path}, "mode": {strconv.FormatUint(uint64(mode.Perm()), 8)}}
	var res WriteResult
	err := c.do(ctx, call{
		method: http.MethodPut, path: machinePath(machineID, "files"), query: query, body: r,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
	}, &res)
	return res.BytesWritten, err
}

// Stat describes a file of the guest.
func (c *Client) Stat(ctx context.Context, machineID, path string) (FileInfo, error) {
	var info FileInfo
	err := c.do(ctx, call{method: http.MethodGet, path: machinePath(machineID, "files", "stat"), query: url.Values{"path": {path}}}, &info)
	return info, err
}

// ListFiles lists a folder of the guest.
func (c *Client) ListFiles(ctx context.Context, machineID, path string) ([]FileInfo, error) {
	var list []FileInfo
	err := c.do(ctx, call{method: http.MethodGet, path: machinePath(machineID, "files", "list"), query: url.Values{"path": {path}}}, &list)
	return list, err
}

// RemoveFile removes a file or an empty folder of the guest, with recursive a
// folder and all that is in it.
func (c *Client) RemoveFile(ctx context.Context, machineID, path string, recursive bool) error {
	query := url.Values{"path": {path}}
	if recursive {
		query.Set("recursive", "true")
	}
	return c.do(ctx, call{method: http.MethodDelete, path: machinePath(machineID, "files"), query: query}, nil)
}

// MkdirRequest is the body of a new folder.
type MkdirRequest struct {
	Path    string `json:"path" minLength:"1" maxLength:"4095"`
	Mode    string `json:"mode,omitempty" pattern:"^[0-7]{1,4}$" doc:"Permission bits in octal; default 755"`
	Parents bool   `json:"parents,omitempty" doc:"Make missing parents; an existing folder is no error"`
}

// Mkdir makes a folder in the guest.
func (c *Client) Mkdir(ctx context.Context, machineID, path string, mode fs.FileMode, parents bool) error {
	req := MkdirRequest{Path: path, Mode: strconv.FormatUint(uint64(mode.Perm()), 8), Parents: parents}
	return c.do(ctx, call{method: http.MethodPost, path: machinePath(machineID, "files", "mkdir"), in: req}, nil)
}

// RenameRequest is the body of a rename.
type RenameRequest struct {
	From string `json:"from" minLength:"1" maxLength:"4095"`
	To   string `json:"to" minLength:"1" maxLength:"4095"`
}

// RenameFile renames a file of the guest, replacing what is there.
func (c *Client) RenameFile(ctx context.Context, machineID, from, to string) error {
	req := RenameRequest{From: from, To: to}
	return c.do(ctx, call{method: http.MethodPost, path: machinePath(machineID, "files", "rename"), in: req}, nil)
}
