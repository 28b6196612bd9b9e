package busybox

import (
	"archive/tar"
	"bytes"
	_ "embed" // for the list of applets
	"io"
	"strings"
	"time"
)

// applets is what Debian 12's BusyBox can do, one name per line.
//
//go:embed applets.txt
var applets string

// osRelease names the system as os-release(5) says.
const osRelease = `NAME="BusyBox"
ID=busybox
PRETTY_NAME="BusyBox (made by hyperfleet)"
`

// folders and files of the root file system, beside BusyBox and its links.
var (
	folders = []struct {
		name string
		perm int64
	}{
		{"bin", 0o755}, {"dev", 0o755}, {"etc", 0o755}, {"home", 0o755}, {"proc", 0o755},
		{"root", 0o700}, {"run", 0o755}, {"sys", 0o755}, {"tmp", 0o1777},
		{"usr", 0o755}, {"usr/bin", 0o755}, {"var", 0o755}, {"var/tmp", 0o1777},
	}
	files = []struct{ name, content string }{
		{"etc/group", "root:x:0:\nnogroup:x:65534:\n"},
		{"etc/os-release", osRelease},
		{"etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n"},
	}
)

// writeRootfs writes the root file system as a tar archive: the same binary
// gives the same bytes.
func writeRootfs(w io.Writer, binary []byte) error {
	t := tar.NewWriter(w)
	for _, f := range folders {
		if err := entry(t, tar.Header{Typeflag: tar.TypeDir, Name: f.name + "/", Mode: f.perm}, nil); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := entry(t, tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644}, []byte(f.content)); err != nil {
			return err
		}
	}
	if err := entry(t, tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, binary); err != nil {
		return err
	}
	for name := range strings.Lines(applets) {
		name = strings.TrimSpace(name)
		if !hasApplet(binary, name) {
			continue
		}
		if err := entry(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox", Mode: 0o777}, nil); err != nil {
			return err
		}
	}
	return t.Close()
}

func entry(t *tar.Writer, h tar.Header, content []byte) error {
	h.Size = int64(len(content))
	h.ModTime = time.Unix(0, 0)
	if err := t.WriteHeader(&h); err != nil {
		return err
	}
	_, err := t.Write(content)
	return err
}

// hasApplet looks for the name among the binary's strings, which is where
// BusyBox has the names that it answers to.
func hasApplet(binary []byte, name string) bool {
	return bytes.Contains(binary, []byte("\x00"+name+"\x00"))
}
